"""What an effect that failed means for its member: each failure is recorded as what it is."""

from __future__ import annotations

import logging

from orchestrator.apply.executor import Executor
from orchestrator.errors import (
    DiskLost,
    ForkFailed,
    GoldenTooEarly,
    GoldenUnusable,
    HookFailed,
    HostUnreachable,
    StoreError,
    UnderstudyError,
)
from orchestrator.lifecycle.table import FATAL
from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.steps import Effect, EffectKind
from orchestrator.planner.golden import plan_without_fork
from orchestrator.planner.repair import plan_without_disk
from orchestrator.planner.restarts import plan_unanswered, plan_went_off
from orchestrator.reconcile.parts import TROUBLE_PAUSE
from orchestrator.reconcile.workers import Workers
from orchestrator.store.records import Recorder

log = logging.getLogger("understudy.controller")

# What was done on the machine may have succeeded: it is done again, and recorded then.
_NO_FAULT_OF_A_MACHINE = (HostUnreachable, StoreError)


class Failures:
    """Called from the threads of effects, and asked by the loop."""

    def __init__(self, recorder: Recorder, executor: Executor, workers: Workers) -> None:
        self._recorder = recorder
        self._executor = executor
        self._workers = workers
        self._in_a_row: dict[str, tuple[int, str]] = {}  # member -> how often, and why

    def forget(self, member: str) -> None:
        """Something succeeded with it."""
        self._in_a_row.pop(member, None)

    def repeated(self) -> dict[str, str]:
        """Member -> why what is done with it failed again."""
        return {name: words for name, (times, words) in list(self._in_a_row.items()) if times > 1}

    def record(self, effect: Effect, error: UnderstudyError, wanted: ScaleSet) -> None:
        log.warning("%s: %s", effect.reason, error.message)
        reason = error.message if isinstance(error, HookFailed) else f"{effect.reason}: {error.message}"
        try:
            self._record(effect, error, reason, wanted)
        except UnderstudyError as second:
            log.error("cannot record a failure of %s: %s", effect.member.name, second)

    def record_went_off(self, effect: Effect, trouble: str, wanted: ScaleSet) -> None:
        """Of a machine that was waited for after a start."""
        log.warning("%s: %s", effect.reason, trouble)
        member = effect.member
        try:
            self._recorder.perform(plan_went_off(member, wanted, self.with_console(member, trouble, wanted)))
        except UnderstudyError as error:
            log.error("cannot record a failure of %s: %s", member.name, error)

    def with_console(self, member: Member, reason: str, wanted: ScaleSet) -> str:
        """The reason, and what the guest said last if its host can tell."""
        try:
            tail = self._executor.console_tail(member, wanted)
        except UnderstudyError:
            return reason
        return f"{reason}\nconsole of {member.name}:\n{tail}" if tail else reason

    def _record(self, effect: Effect, error: UnderstudyError, reason: str, wanted: ScaleSet) -> None:
        member = effect.member
        if _is_of_golden(effect, error):
            self._record_no_golden(effect, error, reason)
        elif _is_of_no_consequence(effect, error):
            kind = "hook_failed" if isinstance(error, HookFailed) else "tell_failed"
            self._recorder.could_not_tell(member, kind, reason)
        elif isinstance(error, HookFailed) and member.parked is not None:
            self._recorder.refused(member, f"{member.name} is not claimed: {reason}")
        elif isinstance(error, DiskLost) and effect.kind is EffectKind.START:
            self._record_lost_disk(member, error, wanted)
        elif (member.phase, effect.kind) in FATAL and not isinstance(error, _NO_FAULT_OF_A_MACHINE):
            words = self.with_console(member, reason, wanted)
            if effect.kind is EffectKind.AWAIT:
                self._recorder.perform(plan_unanswered(member, wanted, words))
            else:
                self._recorder.failed(member, words)
        else:
            self._workers.pause(member.name, TROUBLE_PAUSE)
            if not isinstance(error, HostUnreachable):
                times, _ = self._in_a_row.get(member.name, (0, ""))
                self._in_a_row[member.name] = times + 1, reason
            self._recorder.complained(member, reason)

    def _record_no_golden(self, effect: Effect, error: UnderstudyError, reason: str) -> None:
        """Machines of the model boot for a while, or until it changes."""
        if isinstance(error, HostUnreachable):
            self._workers.pause(effect.member.name, TROUBLE_PAUSE)
            return
        kind = "golden_refused" if effect.kind is EffectKind.TAKE_GOLDEN else "fork_refused"
        self._recorder.golden_failed(effect.member, kind, reason, isinstance(error, GoldenTooEarly))
        if isinstance(error, ForkFailed):
            self._recorder.perform(plan_without_fork(effect.member, reason))

    def _record_lost_disk(self, member: Member, error: DiskLost, wanted: ScaleSet) -> None:
        if member.role is Role.INSTANCE and member.parked is not None and not member.entered:
            self._recorder.refused(member, f"{member.name} is not claimed: {error.message}")
        else:
            self._recorder.perform(plan_without_disk(member, wanted, error.message))


def _is_of_golden(effect: Effect, error: UnderstudyError) -> bool:
    """What only means that machines boot instead of being forked."""
    is_fork = effect.kind is EffectKind.FORK and isinstance(error, GoldenUnusable)
    return effect.kind is EffectKind.TAKE_GOLDEN or is_fork or isinstance(error, ForkFailed)


def _is_of_no_consequence(effect: Effect, error: UnderstudyError) -> bool:
    """A guest that cannot be told serves all the same. A host that was lost over it is asked again."""
    if effect.kind is not EffectKind.TELL or effect.member.phase is Phase.STARTING:
        return False
    return not isinstance(error, HostUnreachable)
