"""Carries out effects beside the loop, each with its record, and begins what follows at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.errors import Interrupted, StartedAgain, UnderstudyError
from orchestrator.models.members import Member, ScaleSet
from orchestrator.models.sightings import Observed
from orchestrator.models.steps import Effect, EffectKind
from orchestrator.planner import Desired
from orchestrator.planner.claims import plan_claimed, see_running
from orchestrator.reconcile.failures import Failures
from orchestrator.reconcile.parts import ControllerParts
from orchestrator.reconcile.workers import Work, Workers

log = logging.getLogger("understudy.controller")


class Effects:
    """Begins effects in `workers`; `wake` is called when one has ended. After `stopping` nothing follows."""

    def __init__(
        self, parts: ControllerParts, workers: Workers, wake: Callable[[], None], stopping: threading.Event
    ) -> None:
        self.failures = Failures(parts.recorder, parts.executor, workers)
        self._parts = parts
        self._workers = workers
        self._wake = wake
        self._stopping = stopping
        self._seen: tuple[Desired, Observed] | None = None

    def remember(self, desired: Desired, observed: Observed) -> None:
        """What the last look saw: what follows an effect is planned upon it."""
        self._seen = desired, observed

    def begin(self, effect: Effect, wanted: ScaleSet, after: Work | None = None) -> None:
        """`after`: the work that ends with it and under whose term of the lease it was decided; by default, it is
        decided under this turn's."""
        term = self._parts.lease.term if after is None else after.term

        def run(work: Work) -> None:
            # The effect, its record and what follows, all only while the lease is held.
            with self._parts.fence.acting(work.term):
                if self._carry_out(work, wanted) and effect.kind is EffectKind.START:
                    self._go_on_with_started(work)

        if self._workers.try_start(effect, run, self._wake, term, after):
            log.info("%s", effect.reason)

    def begin_claimed(
        self,
        desired: Desired,
        observed: Observed,
        busy: Mapping[str, EffectKind],
        members: set[str],
        after: Work | None = None,
    ) -> None:
        """What is next for members that were claimed or started just now, by the records as they are by now."""
        snapshot = self._parts.store.snapshot()
        desired = replace(desired, sets=snapshot.sets, members=snapshot.members, drives=snapshot.drives)
        sets = {one.name: one for one in snapshot.sets}
        for effect in plan_claimed(desired, observed, busy, self._parts.clock.now(), members):
            self.begin(effect, sets[effect.member.set_name], after)

    def _go_on_with_started(self, work: Work) -> None:
        """What a machine that was just started waits for is begun in this worker thread: meanwhile a turn may wait
        for its host, which answers late while it starts machines, or for HAProxy."""
        member = work.effect.member
        if self._seen is None or self._stopping.is_set():
            return
        desired, observed = self._seen
        if desired.hold:
            return
        try:
            busy = {name: kind for name, kind in self._workers.busy().items() if name != member.name}
            seen = see_running(member, desired.prefix, observed)
            self.begin_claimed(desired, seen, busy, {member.name}, work)
        except UnderstudyError as error:
            log.debug("%s is left to the next turn: %s", member.name, error.message)

    def _carry_out(self, work: Work, wanted: ScaleSet) -> bool:
        """True if it succeeded."""
        effect, fence = work.effect, self._parts.fence

        def is_cancelled() -> bool:
            return work.cancelled.is_set() or not fence.holds()

        try:
            fence.check()
            self._parts.executor.perform(effect, wanted, is_cancelled, self._tell)
            self.failures.forget(effect.member.name)
            self._record_success(effect)
            return True
        except Interrupted as stop:
            log.info("%s: interrupted: %s", effect.reason, stop.message)
            if work.faults and fence.holds() and not isinstance(stop, StartedAgain):
                self.failures.record_went_off(effect, work.faults[0], wanted)
        except UnderstudyError as error:
            self.failures.record(effect, error, wanted)
        except Exception:  # one machine must never stop the loop
            log.exception("%s: unexpected failure", effect.reason)
            self.failures.record(effect, UnderstudyError("internal error; see the controller's log"), wanted)
        return False

    def _record_success(self, effect: Effect) -> None:
        member, recorder = effect.member, self._parts.recorder
        recorder.succeeded(member, effect.kind, effect.reason)
        if effect.kind is EffectKind.TAKE_GOLDEN:
            recorder.golden_taken(member, f"{effect.reason}: done")
        if effect.kind is EffectKind.PROVISION:
            seconds = self._parts.clock.now() - member.phase_since
            self._parts.store.write_fact(f"setup_seconds:{member.model}", seconds)
            if self._had_trouble(member) and self._is_fork(member):
                recorder.fork_is_well(member)

    def _had_trouble(self, member: Member) -> bool:
        """With the golden image of its model on its host."""
        return self._seen is not None and (member.host, member.model) in self._seen[0].golden_troubles

    def _is_fork(self, member: Member) -> bool:
        try:
            return self._parts.executor.is_fork(member)
        except UnderstudyError:
            return False

    def _tell(self, member: Member, kind: str, words: str) -> None:
        """An event of work under way. That it cannot be written is no reason for the work to fail."""
        try:
            self._parts.store.note(member.set_name, member.name, kind, words)
        except UnderstudyError as error:
            log.warning("cannot record what %s says: %s", member.name, error.message)
