"""The controller: one turn looks at everything, plans, records, and sets effects going.

A turn never waits for a guest: effects run in `Workers`. It is woken by libvirt events, by finished effects and
by wishes; the safety net is for what sends no event (HAProxy) and for events that were lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from orchestrator.apply.executor import Executor
from orchestrator.config.ledger import Ledger
from orchestrator.errors import (
    BalancerError,
    DiskLost,
    ForkFailed,
    GoldenTooEarly,
    GoldenUnusable,
    HookFailed,
    HostUnreachable,
    Interrupted,
    LeaseLost,
    StoreError,
    StoreLost,
    UnderstudyError,
)
from orchestrator.lifecycle.table import FATAL
from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.sightings import Observed
from orchestrator.models.steps import (
    Admit,
    Advance,
    Claim,
    ConvergeBalancer,
    Effect,
    EffectKind,
    ForgetSet,
    Interrupt,
    NotePool,
    NoteRollout,
    RemoveGolden,
    RemoveLeak,
    Resume,
    Settle,
    Step,
)
from orchestrator.planner import Desired, Limits, plan
from orchestrator.planner.claims import plan_claimed, see_running
from orchestrator.planner.golden import plan_without_fork
from orchestrator.planner.repair import plan_without_disk
from orchestrator.planner.strangers import FIX
from orchestrator.ports.balancer import Balancer
from orchestrator.ports.clock import Clock
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.reconcile.asides import Asides
from orchestrator.reconcile.clock_watch import ClockWatch
from orchestrator.reconcile.lookout import LOOK_DEADLINE, Lookout
from orchestrator.reconcile.missed_restarts import MissedRestarts
from orchestrator.reconcile.readiness_watch import ReadinessWatch
from orchestrator.reconcile.stillness import Stillness
from orchestrator.reconcile.workers import Work, Workers
from orchestrator.store import Fence, Lease, Store
from orchestrator.store.departed import find_departed
from orchestrator.store.lease import LEASE_TTL
from orchestrator.store.records import Recorder
from orchestrator.store.store import Snapshot

log = logging.getLogger("understudy.controller")

SAFETY_NET = 3.0  # seconds between looks when nothing wakes the loop
CLAIM_PAUSE = 0.05  # seconds that a claim is left alone with the processor; it may be over by then
_TROUBLE_PAUSE = 2.0  # seconds before what just failed is tried again
# What was done on the machine may have succeeded: it is done again, and recorded then.
_NO_FAULT_OF_A_MACHINE = (HostUnreachable, StoreError)


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
    ledger: Ledger | None = None


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
        self._clock_watch = ClockWatch(parts.clock)
        self._wake = threading.Event()
        self._missed_restarts = MissedRestarts()
        self._stillness = Stillness(parts.clock)
        self._lookout = Lookout(parts.hosts, parts.look_deadline, self.wake)
        self._stopping = threading.Event()
        self._seen: tuple[Desired, Observed] | None = None
        self._suspects: frozenset[tuple[str, str]] = frozenset()
        self._hold = ""
        self._balancer_trouble = ""
        self._balancer_retry_at = 0.0
        self._failed: dict[str, tuple[int, str]] = {}  # member -> how often in a row, and why
        self._asides = Asides(parts.executor, parts.fence, parts.clock, self.wake)
        self._golden_troubles: frozenset[tuple[str, str]] = frozenset()
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
        """Converge until stopped. Waits for the lease while another controller lives. Raises StoreLost."""
        keeper = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        keeper.start()
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    pause = self.turn() if self._take_lease() else 1.0
                except StoreLost:
                    raise
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
            self._asides.stop()
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
        if self._follow_clock(snapshot):
            return 0.0
        observed = self._observe(snapshot, busy)
        now = self._parts.clock.now()
        desired = self._desired(snapshot, observed)
        self._seen = desired, observed
        self._golden_troubles = frozenset(snapshot.golden_troubles)
        if self._stillness.needs_no_plan(desired, observed, busy):
            return SAFETY_NET
        wanted = plan(desired, observed, busy, now, self._suspects)
        log.debug("turn: %d steps, %d under way", len(wanted.steps), len(busy))
        self._stillness.remember(desired, observed, busy, wanted)
        self._suspects = wanted.suspects
        sets = {one.name: one for one in snapshot.sets}
        changed = [self._perform_all(steps, sets) for steps in _runs(wanted.steps)]
        if any(changed):
            return self._go_on_with_claims(wanted.steps, desired, observed, busy)
        if wanted.wake_at is not None:
            return min(max(wanted.wake_at - now, 0.001), SAFETY_NET)
        return SAFETY_NET

    def _go_on_with_claims(
        self, steps: Sequence[Step], before: Desired, observed: Observed, busy: Mapping[str, EffectKind]
    ) -> float:
        """A claim is not held up by another look. Seconds to wait before that."""
        claimed = {step.member.name for step in steps if isinstance(step, Claim)}
        if not claimed:
            return 0.0
        snapshot = self._parts.store.snapshot()
        desired = replace(before, sets=snapshot.sets, members=snapshot.members, drives=snapshot.drives)
        sets = {one.name: one for one in snapshot.sets}
        for effect in plan_claimed(desired, observed, busy, self._parts.clock.now(), claimed):
            self._begin(effect, sets[effect.member.set_name])
        return CLAIM_PAUSE if len(claimed) == len(steps) else 0.0

    def _desired(self, snapshot: Snapshot, observed: Observed) -> Desired:
        """With what may keep it from being carried out; the declarations' copies are written before any effect."""
        hold, ledger = snapshot.hold, self._parts.ledger
        if not hold and ledger is not None:
            self._parts.fence.check()  # whoever has the lease by now may have deleted a set of this snapshot
            hold = ledger.keep(snapshot.sets)
        if hold and hold != self._hold:
            log.error("nothing is done: %s\n  (%s)", hold, FIX)
        self._hold = hold
        return Desired(
            snapshot.sets,
            snapshot.members,
            self._prefix,
            self._limits,
            self._addresses,
            snapshot.drives,
            find_departed(self._parts.store, snapshot.members, self._prefix, observed),
            hold,
            snapshot.golden_troubles,
        )

    def _follow_clock(self, snapshot: Snapshot) -> bool:
        """True if the clock was set, and recorded times with it."""
        jump = self._clock_watch.look(one.phase_since for one in snapshot.members)
        if jump is None:
            return False
        log.warning("%s", jump.words)
        self._parts.recorder.follow_clock(jump.before, jump.by, jump.words)
        return True

    def _observe(self, snapshot: Snapshot, busy: Mapping[str, EffectKind]) -> Observed:
        stamps: dict[str, list[object]] = {}
        for member in snapshot.members:
            stamps.setdefault(member.host, []).append((member, busy.get(member.name)))
        being_told = {
            one.name
            for one in snapshot.members
            if one.phase is Phase.IN_SERVICE and busy.get(one.name) is EffectKind.TELL
        }
        sightings = self._missed_restarts.add(self._lookout.look(stamps), being_told)
        balancer = replace(self._parts.balancer.observe(), trouble=self._balancer_trouble)
        sets = {one.name: one for one in snapshot.sets}
        serving = [
            (sets[one.set_name], one)
            for one in snapshot.members
            if one.phase is Phase.IN_SERVICE and one.role is Role.INSTANCE and one.request is None
        ]
        troubled = {name: words for name, (times, words) in list(self._failed.items()) if times > 1}
        return Observed(sightings, balancer, self._watch.look(serving), troubled)

    def _perform_all(self, steps: Sequence[Step], sets: Mapping[str, ScaleSet]) -> bool:
        """True if one of them changed the store or the balancer, so that another look is due at once."""
        admissions = [step for step in steps if isinstance(step, Admit)]
        if not admissions:
            changed = [self._perform(step, sets) for step in steps]
            return any(changed)
        for step in admissions:
            log.info("%s", step.reason)
        return self._parts.recorder.admit(admissions)

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
            case RemoveLeak() | RemoveGolden() | Resume():
                self._asides.begin(step, self._parts.lease.term)
                return False
            case ForgetSet() if self._parts.ledger is not None:
                self._parts.fence.check()
                self._parts.ledger.forget(step.set_name)
            case Advance(phase=Phase.FAILED):
                step = replace(
                    step, reason=self._with_console(step.member, step.reason, sets[step.member.set_name])
                )
        quiet = isinstance(step, Settle) or (isinstance(step, NotePool | NoteRollout) and not step.events)
        log.log(logging.DEBUG if quiet else logging.INFO, "%s", step.reason)
        return self._parts.recorder.perform(step)

    # ---- effects -----------------------------------------------------------------------------------------

    def _begin(self, effect: Effect, wanted: ScaleSet, decided: int | None = None) -> None:
        """`decided`: the term of the lease under which it was, this turn's by default."""
        term = self._parts.lease.term if decided is None else decided
        well: list[Effect] = []

        def run(work: Work) -> None:
            if self._carry_out(work, wanted):
                well.append(effect)

        def done() -> None:
            for one in well:
                self._go_on_after(one, term)
            self.wake()

        if self._workers.try_start(effect, run, done, term):
            log.info("%s", effect.reason)

    def _go_on_after(self, effect: Effect, term: int) -> None:
        """What a machine that was just started waits for is begun in this worker thread: meanwhile a turn may wait
        for its host, which answers late while it starts machines, or for HAProxy."""
        if effect.kind is not EffectKind.START or self._seen is None or self._stopping.is_set():
            return
        desired, observed = self._seen
        if desired.hold:
            return
        try:
            with self._parts.fence.acting(term):
                snapshot = self._parts.store.snapshot()
                desired = replace(desired, sets=snapshot.sets, members=snapshot.members, drives=snapshot.drives)
                observed = see_running(effect.member, desired.prefix, observed)
                sets = {one.name: one for one in snapshot.sets}
                now, busy = self._parts.clock.now(), self._workers.busy()
                for following in plan_claimed(desired, observed, busy, now, {effect.member.name}):
                    self._begin(following, sets[following.member.set_name], term)
        except UnderstudyError as error:
            log.debug("%s is left to the next turn: %s", effect.member.name, error.message)

    def _carry_out(self, work: Work, wanted: ScaleSet) -> bool:
        """Runs in a worker thread: the effect, then its record, both only while the lease is held. True if it
        succeeded."""
        with self._parts.fence.acting(work.term):
            return self._perform_effect(work, wanted)

    def _perform_effect(self, work: Work, wanted: ScaleSet) -> bool:
        effect, fence = work.effect, self._parts.fence

        def is_cancelled() -> bool:
            return work.cancelled.is_set() or not fence.holds()

        try:
            fence.check()
            self._parts.executor.perform(effect, wanted, is_cancelled, self._tell)
            self._failed.pop(effect.member.name, None)
            self._parts.recorder.succeeded(effect.member, effect.kind, effect.reason)
            if effect.kind is EffectKind.TAKE_GOLDEN:
                self._parts.recorder.golden_taken(effect.member, f"{effect.reason}: done")
            if effect.kind is EffectKind.PROVISION:
                seconds = self._parts.clock.now() - effect.member.phase_since
                self._parts.store.write_fact(f"setup_seconds:{effect.member.model}", seconds)
                if (effect.member.host, effect.member.model) in self._golden_troubles and self._is_fork(effect):
                    self._parts.recorder.fork_is_well(effect.member)
            return True
        except Interrupted as stop:
            log.info("%s: interrupted: %s", effect.reason, stop.message)
        except UnderstudyError as error:
            self._record_failure(effect, error, wanted)
        except Exception:  # one machine must never stop the loop
            log.exception("%s: unexpected failure", effect.reason)
            self._record_failure(effect, UnderstudyError("internal error; see the controller's log"), wanted)
        return False

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
            if _is_of_golden(effect, error):
                self._record_no_golden(effect, error, reason)
            elif _is_of_no_consequence(effect, error):
                kind = "hook_failed" if isinstance(error, HookFailed) else "tell_failed"
                self._parts.recorder.could_not_tell(effect.member, kind, reason)
            elif isinstance(error, HookFailed) and effect.member.parked is not None:
                reason = f"{effect.member.name} is not claimed: {reason}"
                self._parts.recorder.refused(effect.member, reason)
            elif isinstance(error, DiskLost) and effect.kind is EffectKind.START:
                self._record_lost_disk(effect.member, error)
            elif (effect.member.phase, effect.kind) in FATAL and not isinstance(error, _NO_FAULT_OF_A_MACHINE):
                self._parts.recorder.failed(effect.member, self._with_console(effect.member, reason, wanted))
            else:
                self._workers.pause(effect.member.name, _TROUBLE_PAUSE)
                if not isinstance(error, HostUnreachable):
                    times, _ = self._failed.get(effect.member.name, (0, ""))
                    self._failed[effect.member.name] = times + 1, reason
                self._parts.recorder.complained(effect.member, reason)
        except UnderstudyError as second:
            log.error("cannot record a failure of %s: %s", effect.member.name, second)

    def _is_fork(self, effect: Effect) -> bool:
        try:
            return self._parts.executor.is_fork(effect.member)
        except UnderstudyError:
            return False

    def _record_no_golden(self, effect: Effect, error: UnderstudyError, reason: str) -> None:
        """Machines of the model boot for a while, or until it changes."""
        if isinstance(error, HostUnreachable):
            self._workers.pause(effect.member.name, _TROUBLE_PAUSE)
            return
        kind = "golden_refused" if effect.kind is EffectKind.TAKE_GOLDEN else "fork_refused"
        self._parts.recorder.golden_failed(effect.member, kind, reason, isinstance(error, GoldenTooEarly))
        if isinstance(error, ForkFailed):
            self._parts.recorder.perform(plan_without_fork(effect.member, reason))

    def _record_lost_disk(self, member: Member, error: DiskLost) -> None:
        if member.role is Role.INSTANCE and member.parked is not None and not member.entered:
            self._parts.recorder.refused(member, f"{member.name} is not claimed: {error.message}")
        else:
            self._parts.recorder.perform(plan_without_disk(member, error.message))

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


def _runs(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """In their order, neighbours that are admissions together: they are one record."""
    for _, run in groupby(steps, key=lambda step: isinstance(step, Admit)):
        yield list(run)


def _is_of_golden(effect: Effect, error: UnderstudyError) -> bool:
    """What only means that machines boot instead of being forked."""
    is_fork = effect.kind is EffectKind.FORK and isinstance(error, GoldenUnusable)
    return effect.kind is EffectKind.TAKE_GOLDEN or is_fork or isinstance(error, ForkFailed)


def _is_of_no_consequence(effect: Effect, error: UnderstudyError) -> bool:
    """A guest that cannot be told serves all the same. A host that was lost over it is asked again."""
    if effect.kind is not EffectKind.TELL or effect.member.phase is Phase.STARTING:
        return False
    return not isinstance(error, HostUnreachable)
