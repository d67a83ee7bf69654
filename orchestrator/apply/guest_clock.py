"""The clock of a guest that was hibernated: it goes on with the time at which it fell asleep."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent
from orchestrator.errors import GuestError
from orchestrator.models.members import Member, PoolState, ScaleSet
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Guest, GuestAddress, Patience

log = logging.getLogger("understudy.executor")


def has_slept(member: Member, wanted: ScaleSet) -> bool:
    """Whether its guest does not know what time it is, and can be told."""
    return member.parked is PoolState.HIBERNATED and wanted.spec.setup.answer_file == "cloud-init"


def may_be_asked_before(member: Member, wanted: ScaleSet) -> bool:
    """Whether its probes say the same before its clock is set. What is asked from outside does; a command in the
    guest, or a service on a drive that is mounted only then, may not."""
    return not member.drives and all(probe.command is None for probe in wanted.spec.readiness)


@dataclass(frozen=True)
class GuestClock:
    """One guest, told by its agent, else by SSH. Any thread: what it needs of the host was looked up before."""

    guest: Guest
    agent: GuestAgent
    where: GuestAddress
    clock: Clock

    def set(self, patience: Patience) -> None:
        """Raises GuestError, HostError or Interrupted."""
        try:
            self.agent.set_time(self.clock, patience)
            return
        except GuestError as error:
            log.debug("%s: its agent does not set the clock, SSH does: %s", self.where.name, error)
        shell = self.guest.open_shell(self.where, patience)
        try:
            shell.set_clock(self.clock.now(), patience)
        finally:
            shell.close()
