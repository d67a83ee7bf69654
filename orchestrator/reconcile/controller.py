"""The controller: one turn looks at everything, plans, records, and sets effects going.

A turn never waits for a guest: effects run in `Workers`. It is woken by libvirt events, by finished effects and
by wishes; the safety net is for what sends no event (HAProxy) and for events that were lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from orchestrator.apply.executor import Executor
from orchestrator.errors import (
    BalancerError,
    HookFailed,
    HostUnreachable,
    Interrupted,
    LeaseLost,
    UnderstudyError,
)
from orchestrator.lifecycle.table import FATAL
from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.sightings import Observed
from orchestrator.models.steps import (
    Advance,
    ConvergeBalancer,
    Effect,
    EffectKind,
    Interrupt,
    NotePool,
    NoteRollout,
    RemoveLeak,
    Settle,
    Step,
)
from orchestrator.planner import Desired, Limits, plan
from orchestrator.ports.balancer import Balancer
from orchestrator.ports.clock import Clock
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.reconcile.lookout import LOOK_DEADLINE, Lookout
from orchestrator.reconcile.readiness_watch import ReadinessWatch
from orchestrator.reconcile.workers import Work, Workers
from orchestrator.store import Fence, Lease, Store
from orchestrator.store.lease import LEASE_TTL
from orchestrator.store.records import Recorder
from orchestrator.store.store import Snapshot

log = logging.getLogger("understudy.controller")

SAFETY_NET = 3.0  # seconds between looks when nothing wakes the loop
_TROUBLE_PAUSE = 2.0  # seconds before what just failed is tried again


@dataclass(frozen=True)
class ControllerParts:
    """What a controller works with. `look_deadline`: seconds that a host has to answer."""

    store: Store
    recorder: Recorder
    executor: Executor
    hosts: Mapping[str, Hypervisor]
    balancer: Balancer
    lease: Lease
    fence: Fence
    clock: Clock
    look_deadline: float = LOOK_DEADLINE


class Controller:
    """Converges the world while it holds the lease."""

    def __init__(
        self, parts: ControllerParts, limits: Limits, prefix: str, parallel: int, addresses: int | None = None
    ) -> None:
        self._parts = parts
        self._limits = limits
        self._addresses = addresses
        self._prefix = prefix
        self._workers = Workers(parallel, len(parts.hosts))
        self._watch = ReadinessWatch(parts.executor.ask_probe, parts.clock, self.wake)
        self._wake = threading.Event()
        self._lookout = Lookout(parts.hosts, parts.look_deadline, self.wake)
        self._stopping = threading.Event()
        self._suspects: frozenset[tuple[str, str]] = frozenset()
        self._balancer_trouble = ""
        self._balancer_retry_at = 0.0
        for host in parts.hosts.values():
            host.subscribe(self.wake)

    def wake(self) -> None:
        """Look again now. Any thread."""
        self._wake.set()

    def stop(self) -> None:
        """End `run` soon. Any thread; safe in a signal handler."""
        self._stopping.set()
        self._wake.set()

    def run(self, on_turn: Callable[[], None] = lambda: None) -> None:
        """Converge until stopped. Waits for the lease while another controller lives."""
        keeper = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        keeper.start()
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    pause = self.turn() if self._take_lease() else 1.0
                except LeaseLost as error:
                    log.warning("%s", error.message)
                    pause = 1.0
                except UnderstudyError as error:
                    log.error("%s", error)
                    pause = 1.0
                except Exception:  # a long-running process survives what nobody foresaw, and says it
                    log.exception("unexpected failure while looking at the world")
                    pause = _TROUBLE_PAUSE
                on_turn()
                if pause > 0:
                    self._wake.wait(pause)
        finally:
            self._stopping.set()
            self._watch.stop()
            self._workers.stop()
            self._release()

    def _take_lease(self) -> bool:
        """Taken anew, it gives no right to go on with what was begun before it was lost."""
        before = self._parts.lease.term
        has_it = self._parts.lease.take()
        if not has_it or self._parts.lease.term != before:
            self._give_way()
        return has_it

    def _give_way(self) -> None:
        """Another process is or was the controller: what this one has under way is not its own any more."""
        count = self._workers.interrupt_all()
        if count:
            log.warning("the controller lease was lost; giving up what is under way: %d", count)

    def _keep_lease(self) -> None:
        """A turn that a slow host holds up must not cost the lease while effects go on."""
        while not self._stopping.wait(LEASE_TTL / 3):
            try:
                if not self._parts.lease.renew():
                    self._give_way()
            except UnderstudyError as error:
                log.error("cannot renew the controller lease: %s", error)

    def _release(self) -> None:
        try:
            self._parts.lease.release()
        except UnderstudyError as error:
            log.error("cannot release the controller lease: %s", error)

    def turn(self) -> float:
        """One look; seconds to wait before the next. Raises StoreError, and LeaseLost if it was lost meanwhile."""
        with self._parts.fence.acting(self._parts.lease.term):
            return self._turn()

    def _turn(self) -> float:
        # The order matters: what finishes after `busy` was read counts as busy for this turn, so that no stale
        # record is planned upon, and the world is seen after the records that describe it.
        busy = self._workers.busy()
        snapshot = self._parts.store.snapshot()
        observed = self._observe(snapshot, busy)
        now = self._parts.clock.now()
        desired = Desired(
            snapshot.sets, snapshot.members, self._prefix, self._limits, self._addresses, drives=snapshot.drives
        )
        wanted = plan(desired, observed, busy, now, self._suspects)
        log.debug("turn: %d steps, %d under way", len(wanted.steps), len(busy))
        self._suspects = wanted.suspects
        sets = {one.name: one for one in snapshot.sets}
        changed = [self._perform(step, sets) for step in wanted.steps]
        if any(changed):
            return 0.0
        if wanted.wake_at is not None:
            return min(max(wanted.wake_at - now, 0.001), SAFETY_NET)
        return SAFETY_NET

    def _observe(self, snapshot: Snapshot, busy: Mapping[str, EffectKind]) -> Observed:
        stamps: dict[str, list[object]] = {}
        for member in snapshot.members:
            stamps.setdefault(member.host, []).append((member, busy.get(member.name)))
        sightings = self._lookout.look(stamps)
        balancer = replace(self._parts.balancer.observe(), trouble=self._balancer_trouble)
        sets = {one.name: one for one in snapshot.sets}
        serving = [
            (sets[one.set_name], one)
            for one in snapshot.members
            if one.phase is Phase.IN_SERVICE and one.role is Role.INSTANCE and one.request is None
        ]
        return Observed(sightings, balancer, self._watch.look(serving))

    def _perform(self, step: Step, sets: Mapping[str, ScaleSet]) -> bool:
        """True if the store or the balancer changed, so that another look is due at once."""
        match step:
            case Effect():
                self._begin(step, sets[step.member.set_name])
                return False
            case Interrupt():
                self._workers.interrupt(step.member.name)
                return False
            case ConvergeBalancer():
                return self._converge_balancer(step)
            case RemoveLeak():
                return self._remove_leak(step)
            case Advance(phase=Phase.FAILED):
                step = replace(
                    step, reason=self._with_console(step.member, step.reason, sets[step.member.set_name])
                )
        quiet = isinstance(step, Settle) or (isinstance(step, NotePool | NoteRollout) and not step.events)
        log.log(logging.DEBUG if quiet else logging.INFO, "%s", step.reason)
        return self._parts.recorder.perform(step)

    # ---- effects -----------------------------------------------------------------------------------------

    def _begin(self, effect: Effect, wanted: ScaleSet) -> None:
        term = self._parts.lease.term
        started = self._workers.try_start(effect, lambda work: self._carry_out(work, wanted), self.wake, term)
        if started:
            log.info("%s", effect.reason)

    def _carry_out(self, work: Work, wanted: ScaleSet) -> None:
        """Runs in a worker thread: the effect, then its record, both only while the lease is held."""
        with self._parts.fence.acting(work.term):
            self._perform_effect(work, wanted)

    def _perform_effect(self, work: Work, wanted: ScaleSet) -> None:
        effect, fence = work.effect, self._parts.fence

        def is_cancelled() -> bool:
            return work.cancelled.is_set() or not fence.holds()

        try:
            fence.check()
            self._parts.executor.perform(effect, wanted, is_cancelled, self._tell)
            self._parts.recorder.succeeded(effect.member, effect.kind, effect.reason)
            if effect.kind is EffectKind.PROVISION:
                seconds = self._parts.clock.now() - effect.member.phase_since
                self._parts.store.write_fact(f"setup_seconds:{effect.member.model}", seconds)
        except Interrupted as stop:
            log.info("%s: interrupted: %s", effect.reason, stop.message)
        except UnderstudyError as error:
            self._record_failure(effect, error, wanted)
        except Exception:  # one machine must never stop the loop
            log.exception("%s: unexpected failure", effect.reason)
            self._record_failure(effect, UnderstudyError("internal error; see the controller's log"), wanted)

    def _tell(self, member: Member, kind: str, words: str) -> None:
        """An event of work under way. That it cannot be written is no reason for the work to fail."""
        try:
            self._parts.store.note(member.set_name, member.name, kind, words)
        except UnderstudyError as error:
            log.warning("cannot record what %s says: %s", member.name, error.message)

    def _record_failure(self, effect: Effect, error: UnderstudyError, wanted: ScaleSet) -> None:
        log.warning("%s: %s", effect.reason, error.message)
        reason = error.message if isinstance(error, HookFailed) else f"{effect.reason}: {error.message}"
        try:
            if _is_of_no_consequence(effect, error):
                kind = "hook_failed" if isinstance(error, HookFailed) else "tell_failed"
                self._parts.recorder.could_not_tell(effect.member, kind, reason)
            elif isinstance(error, HookFailed) and effect.member.parked is not None:
                reason = f"{effect.member.name} is not claimed: {reason}"
                self._parts.recorder.refused(effect.member, reason)
            elif (effect.member.phase, effect.kind) in FATAL and not isinstance(error, HostUnreachable):
                self._parts.recorder.failed(effect.member, self._with_console(effect.member, reason, wanted))
            else:
                self._workers.pause(effect.member.name, _TROUBLE_PAUSE)
                self._parts.recorder.complained(effect.member, reason)
        except UnderstudyError as second:
            log.error("cannot record a failure of %s: %s", effect.member.name, second)

    def _with_console(self, member: Member, reason: str, wanted: ScaleSet) -> str:
        try:
            tail = self._parts.executor.console_tail(member, wanted)
        except UnderstudyError:
            return reason
        return f"{reason}\nconsole of {member.name}:\n{tail}" if tail else reason

    # ---- the rest ----------------------------------------------------------------------------------------

    def _converge_balancer(self, step: ConvergeBalancer) -> bool:
        now = self._parts.clock.monotonic()
        if now < self._balancer_retry_at:
            return False
        self._parts.fence.check()
        try:
            self._parts.balancer.converge(step.config)
        except BalancerError as error:
            self._balancer_retry_at = now + _TROUBLE_PAUSE
            if error.message != self._balancer_trouble:
                log.error("%s", error)
                self._balancer_trouble = error.message
            return False
        self._balancer_trouble = ""
        return True

    def _remove_leak(self, step: RemoveLeak) -> bool:
        log.warning("%s", step.reason)
        try:
            self._parts.executor.remove_leak(step.host, step.domain)
        except UnderstudyError as error:
            log.error("%s: %s", step.reason, error.message)
        return False


def _is_of_no_consequence(effect: Effect, error: UnderstudyError) -> bool:
    """A guest that cannot be told serves all the same. A host that was lost over it is asked again."""
    if effect.kind is not EffectKind.TELL or effect.member.phase is Phase.STARTING:
        return False
    return not isinstance(error, HostUnreachable)
