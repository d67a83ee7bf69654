"""Disks that outlive their machines, on one host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.models.machine import Hardware
from orchestrator.models.storage import ExtraDisk


class Disks(Protocol):
    """Every call may raise HostError, HostUnreachable or HostFull."""

    def attach(self, domain: str, disks: Sequence[ExtraDisk], hardware: Hardware) -> bool:
        """The machine has these disks from its next start on, and now if it runs; volumes are made, or grown to
        their size. What it has already is success. False: it takes one of them only when it is started again.

        Raises Conflict if any other machine has one, or if a file that nobody made for it has its name; HostError
        if a volume that must exist is missing, or was made raw by an earlier version.
        """

    def remove_local_storage(self, member: str, keep: str = "") -> None:
        """Every volume of local storage of that member but `keep`, and what a domain has. Absent is success. Raw
        ones, which an earlier version made, stay."""

    def remove_drive(self, disk: ExtraDisk) -> None:
        """Absent is success; a file that nobody made for it stays. Raises Conflict if a machine has it, HostError
        if it is a raw one that an earlier version made."""
