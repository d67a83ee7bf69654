"""What an audit needs from the world: counting, and taking away one thing at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from orchestrator.models.stock import HostStock, Remnant, Reservation, StateStock


class Stockroom(Protocol):
    """One host. Every call may raise HostError or HostUnreachable; what is removed may be absent."""

    def take_stock(self) -> HostStock:
        """Everything that may be ours. Changes nothing."""

    def remove_volume(self, name: str) -> None: ...

    def remove_log(self, name: str) -> None:
        """Of what a console has shown."""

    def remove_reservation(self, reservation: Reservation) -> None: ...

    def remove_remnant(self, remnant: Remnant) -> None: ...

    def remove_probe(self) -> None:
        """The guest by which KVM was tried, and its disk."""


class StateRooms(Protocol):
    """The state directory. Raises StoreError."""

    def held(self) -> AbstractContextManager[None]:
        """Nobody packs uploads or keeps passwords for a wish that is not recorded yet."""

    def take_stock(self) -> StateStock: ...

    def remove_image(self, digest: str) -> None: ...

    def remove_scratch(self, name: str) -> None: ...

    def remove_upload(self, name: str) -> None: ...

    def remove_secret(self, name: str) -> None: ...

    def remove_copy(self, name: str) -> None: ...


class BalancerProcesses(Protocol):
    """Processes of this installation's load balancer."""

    def find_strays(self) -> tuple[int, ...]:
        """Those that listen, but are not the one that can be talked to."""

    def end_stray(self, process: int) -> None:
        """It takes nothing new, finishes what it serves and ends. Gone is success. Raises BalancerError."""
