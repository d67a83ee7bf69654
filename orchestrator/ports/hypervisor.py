"""Machines and their disks on one host, exactly as wide as the loop's need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from orchestrator.models.machine import Blueprint, Subnet
from orchestrator.models.members import Image
from orchestrator.models.sightings import HostSighting
from orchestrator.ports.disks import Disks


class Hypervisor(Protocol):
    """One host. Every call may raise HostError, HostUnreachable or HostFull."""

    @property
    def name(self) -> str: ...

    @property
    def zone(self) -> str: ...

    @property
    def disks(self) -> Disks: ...

    def observe(self) -> HostSighting:
        """All our machines in a few bulk calls. Never raises: `answers` False says the host is silent."""

    def ensure_image(self, image: Image, file: Path) -> None:
        """The image's base disk is on the host, read-only, its content checked by sha256 on the way."""

    def remove_image(self, digest: str) -> None:
        """Absent is success."""

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        """Overlay, seed, domain, started. A body of another incarnation is removed first. Idempotent.

        Its further disks are made only where they are missing. Raises Conflict if a domain of that name is not
        ours, or if another machine has one of its drives.
        """

    def remove_seed(self, domain: str, incarnation: int) -> None:
        """Nothing of the seed is left on the host, and the machine boots without it from now on. Idempotent.

        A guest that does not let go of the disk has an empty one until it is switched off.
        """

    def start_machine(self, domain: str) -> None:
        """Already running is success."""

    def shut_down_machine(self, domain: str, deadline: float, cancelled: Callable[[], bool]) -> bool:
        """Clean shutdown, asked of the guest; by force after `deadline` seconds. Off is success.

        False if force was needed.
        """

    def hibernate_machine(self, domain: str) -> None:
        """Save its memory to disk and switch it off; the next start goes on there. Off is success."""

    def destroy_machine(self, domain: str) -> None:
        """Domain and every volume named after it; its further disks stay. Absent is success, somebody else's
        domain is Conflict."""

    def console_tail(self, domain: str, incarnation: int, size: int = 4096) -> str:
        """The last bytes of the serial console log, made printable; empty if there is none."""

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        """What the guest's QEMU agent returns, as JSON values: a guest's words, not to be trusted.

        Raises AgentAbsent if none answers, GuestError if it refuses.
        """

    def describe_network(self, name: str, filter_: str = "") -> Subnet:
        """Raises NotFound if the host has no such network or filter, HostError if it has no IPv4 subnet."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` from another thread whenever a machine of this host changes."""

    def close(self) -> None:
        """Let go of the connection."""
