"""Tells a guest its phase and runs the hook that goes with it (rules: `lifecycle.telling`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.step_events import Tell
from orchestrator.errors import GuestError, HookFailed, Interrupted, NeverReady, SetupFailed, UnderstudyError
from orchestrator.lifecycle.telling import Hook, find_hook, guest_phase, tell_script
from orchestrator.models.members import GuestPhase, Member, Phase, PoolState, ScaleSet
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Guest, GuestAddress, GuestShell, Patience

log = logging.getLogger("understudy.executor")

TELL_SECONDS = 60.0  # to tell a guest that may still be booting
DRAIN_SECONDS = 10.0  # to tell one that is about to go, and may be going because it does not answer
_AGENT_SECONDS = 5.0


@dataclass(frozen=True)
class PhaseTeller:
    """One guest: told by its agent where that may run commands, else by SSH. Hooks need SSH."""

    guest: Guest
    agent: GuestAgent
    where: GuestAddress
    clock: Clock
    tell: Tell

    def perform(self, member: Member, wanted: ScaleSet, cancelled: Callable[[], bool]) -> None:
        """Raises HookFailed, or GuestError if there is no hook and the guest cannot be told, or Interrupted."""
        hook = find_hook(member, wanted)
        now = self.clock.monotonic()
        if hook is None:
            self._tell(guest_phase(member), Patience(now + self._seconds(member, wanted), cancelled))
            return
        boots = member.phase is Phase.STARTING and member.parked not in (PoolState.RUNNING, PoolState.HIBERNATED)
        seconds = max(hook.timeout, wanted.spec.setup.timeout) if boots else hook.timeout
        try:
            self._tell_and_run(member, hook, Patience(now + seconds, cancelled))
        except (HookFailed, Interrupted):
            raise
        except GuestError as error:
            raise HookFailed(f"{hook.name} of {member.name} could not run: {error.message}") from error

    def _seconds(self, member: Member, wanted: ScaleSet) -> float:
        """How long telling may take; it holds up no drain that is over by its time-out."""
        if member.phase is not Phase.DRAINING:
            return TELL_SECONDS
        left = member.phase_since + wanted.spec.scale_in.drain_timeout - self.clock.now()
        return min(max(left, 0.0), DRAIN_SECONDS)

    def _tell(self, phase: GuestPhase, patience: Patience) -> None:
        if self._tell_by_agent(phase, patience):
            return
        shell = self.guest.open_shell(self.where, patience)
        try:
            shell.tell_phase(phase, patience)
        finally:
            shell.close()

    def _tell_by_agent(self, phase: GuestPhase, patience: Patience) -> bool:
        soon = replace(patience, deadline=min(self.clock.monotonic() + _AGENT_SECONDS, patience.deadline))
        try:
            self.agent.run(tell_script(phase), self.clock, soon)
        except Interrupted:
            raise
        except UnderstudyError as error:
            log.debug("%s: its agent does not tell it its phase, SSH does: %s", self.where.name, error)
            return False
        return True

    def _tell_and_run(self, member: Member, hook: Hook, patience: Patience) -> None:
        phase = guest_phase(member)
        is_told = self._tell_by_agent(phase, patience)
        shell = self.guest.open_shell(self.where, patience)
        try:
            if member.phase is Phase.STARTING:
                # A guest that boots has its boot behind it before its hook runs; how that went, readiness says.
                with suppress(SetupFailed):
                    shell.await_setup(patience)
            if not is_told:
                shell.tell_phase(phase, patience)
            self._run(shell, member, hook, patience)
        finally:
            shell.close()

    def _run(self, shell: GuestShell, member: Member, hook: Hook, patience: Patience) -> None:
        began = self.clock.monotonic()
        if member.phase is Phase.STARTING:
            # The hook's time begins when the guest is there; a drain's has begun already.
            patience = replace(patience, deadline=began + hook.timeout)
        environment = {
            "UNDERSTUDY_PHASE": guest_phase(member).value,
            "UNDERSTUDY_MEMBER": member.name,
            "UNDERSTUDY_SET": member.set_name,
        }
        for command in hook.commands:
            try:
                shell.run(command, patience, None, environment)
            except NeverReady as error:
                raise HookFailed(
                    f"{hook.name} of {member.name} was not done within {hook.timeout:g} s: {command!r}"
                ) from error
            except GuestError as error:
                seconds = self.clock.monotonic() - began
                raise HookFailed(
                    f"{hook.name} of {member.name} failed after {seconds:.1f} s: {error.message}"
                ) from error
        seconds = self.clock.monotonic() - began
        self.tell(member, "hook_done", f"{hook.name} of {member.name}: done after {seconds:.1f} s")
