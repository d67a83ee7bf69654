"""Machines and their disks on one host, exactly as wide as the loop's need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from orchestrator.models.adoption import HostSurvey
from orchestrator.models.golden import GoldenImage
from orchestrator.models.machine import Blueprint, Subnet
from orchestrator.models.members import Image
from orchestrator.models.ownership import OwnerTag
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
        """The image's base disk is on the host, read-only, its content checked by sha256 on the way.

        Raises HostError also if it was changed there since; it is left as it is.
        """

    def remove_image(self, digest: str) -> None:
        """Absent is success. What somebody else's domain lies over stays."""

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        """Overlay, seed, domain, started. Idempotent. A body of another incarnation is removed first, and so is a
        fork whose link was never up.

        Its further disks are made only where they are missing. Raises Conflict if a domain or a volume of that
        name is not ours, if somebody else's domain uses one, or if another machine has one of its drives.
        """

    def remove_seed(self, domain: str, incarnation: int) -> None:
        """Nothing of the seed is left on the host, and the machine boots without it from now on. Idempotent.

        A guest that does not let go of the disk has an empty one until it is switched off.
        """

    def start_machine(self, domain: str) -> None:
        """Already running is success.

        Raises DiskLost if its ephemeral disk is gone, BaseLost if the base disk beneath it is; HostError if both
        are, as where a file system is not mounted.
        """

    def resume_machine(self, domain: str) -> None:
        """One that was paused goes on; running is success."""

    def shut_down_machine(self, domain: str, deadline: float, cancelled: Callable[[], bool]) -> bool:
        """Clean shutdown, asked of the guest; by force after `deadline` seconds. Off is success.

        False if force was needed.
        """

    def hibernate_machine(self, domain: str) -> None:
        """Save its memory to disk and switch it off; the next start goes on there. Off is success."""

    def mark_machine(self, domain: str, tag: OwnerTag) -> None:
        """Write the machine's owner tag anew. Raises HostError if there is no such machine of ours."""

    def destroy_machine(self, domain: str) -> None:
        """Domain and every volume and log named after it; its further disks stay, and so do volumes that somebody
        else's domain uses, or that are not ours. Absent is success, somebody else's domain is Conflict."""

    def survey(self) -> HostSurvey:
        """All that `adopt` rebuilds records from. Changes nothing; of a host that is silent, HostUnreachable."""

    # ---- forks -------------------------------------------------------------------------------------------

    def take_golden(
        self, domain: str, incarnation: int, model: str, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Memory and disk of a machine that runs, kept as the golden image of its model; the machine goes on.

        One that is complete is success. Raises GoldenUnusable with the reason where this host can have none, or
        none of this machine, or its memory changes faster than it is written; Interrupted soon after `cancelled`.
        Then nothing new is left.
        """

    def fork_machine(self, blueprint: Blueprint) -> None:
        """In place of `create_machine`: it goes on from its model's golden image, running, with its link down.

        Until `set_link` lets it up it is nobody: when it ends, nothing but its volumes is left. Idempotent: a fork
        of this incarnation that runs stays as it is, and so does a body that was created (see `is_fork`).
        Raises GoldenUnusable, and then nothing is left of it; Conflict as `create_machine` does.
        """

    def is_fork(self, domain: str) -> bool:
        """Its body went on from a golden image. False if there is no such machine of ours."""

    def set_link(self, domain: str, up: bool) -> None:
        """The cable of its network card. Up for the first time makes a fork a machine that outlives its end.

        Idempotent. Raises NotFound, or HostError if it does not run.
        """

    def remove_golden(self, model: str) -> None:
        """Absent is success. Raises Conflict while a machine on this host is written over it."""

    def list_goldens(self) -> list[GoldenImage]:
        """Those that are complete, by model."""

    # ---- what is known of machines -----------------------------------------------------------------------

    def console_tail(self, domain: str, incarnation: int, size: int = 4096) -> str:
        """The last bytes of the serial console log, made printable; empty if there is none."""

    def why_no_console_log(self) -> str:
        """Why what consoles show is not kept on this host; empty if it is. Asks nobody."""

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
