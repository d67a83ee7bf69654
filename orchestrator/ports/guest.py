"""What is asked of a guest from outside: its setup's result, commands, files, answers of its services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.models.members import GuestPhase
from orchestrator.models.spec import Probe


@dataclass(frozen=True)
class GuestAddress:
    """Where a guest is reached; `find_host_key` derives the key it must show on SSH, for who logs in."""

    name: str
    address: str
    ssh_port: int
    find_host_key: Callable[[], str] = field(compare=False, repr=False)

    @property
    def host_key(self) -> str:
        """OpenSSH public key text."""
        return self.find_host_key()


Listen = Callable[[bytes], None]
"""Gets a command's output while it runs, as it comes; b"" several times a second while nothing comes."""


@dataclass(frozen=True)
class Patience:
    """Until when to try (monotonic seconds) and whether the work is still wanted."""

    deadline: float
    is_cancelled: Callable[[], bool]


class GuestShell(Protocol):
    """An SSH session with one guest. Raises GuestError."""

    def await_setup(self, patience: Patience) -> None:
        """Returns when first-boot setup has ended well. Raises SetupFailed with the guest's own errors."""

    def run(
        self,
        command: str,
        patience: Patience,
        listen: Listen | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Runs a command as root. Raises GuestError with the output's tail on a status other than 0."""

    def tell_phase(self, phase: GuestPhase, patience: Patience) -> None:
        """What the guest reads about itself, see `lifecycle.telling`."""

    def run_script(self, script: str, arguments: Sequence[str], patience: Patience) -> None:
        """Runs a shell script as root. Raises GuestError with the output's tail on a status other than 0."""

    def set_clock(self, now: float, patience: Patience) -> None:
        """Tells a guest that slept what time it is (epoch seconds, within half a second)."""

    def upload(self, archive: Path, patience: Patience) -> None:
        """Unpacks an upload archive (see `config.uploads`) at the guest's root."""

    def close(self) -> None: ...


class Guest(Protocol):
    def open_shell(self, where: GuestAddress, patience: Patience) -> GuestShell:
        """Tries until SSH answers with the expected host key, the deadline or cancellation."""

    def await_ssh(self, where: GuestAddress, patience: Patience) -> None:
        """Returns once an SSH server speaks there; nobody logs in. Raises NeverReady."""

    def await_answer(self, probe: Probe, where: GuestAddress, port: int, patience: Patience) -> None:
        """Returns as soon as the probe passes. `port` is the reachable port. Raises NeverReady."""
