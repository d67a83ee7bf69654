"""The controller: one turn looks at everything, plans, records, and sets effects going.

A turn never waits for a guest: effects run in `Workers`. It is woken by libvirt events, by finished effects and
by wishes; the safety net is for what sends no event (HAProxy) and for events that were lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from orchestrator.errors import (
    BalancerError,
    LeaseLost,
    StoreLost,
    UnderstudyError,
)
from orchestrator.models.members import Phase, Role, ScaleSet
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
from orchestrator.planner.strangers import FIX
from orchestrator.reconcile.asides import Asides
from orchestrator.reconcile.clock_watch import ClockWatch
from orchestrator.reconcile.effects import Effects
from orchestrator.reconcile.lease_keeper import LeaseKeeper
from orchestrator.reconcile.lookout import Lookout
from orchestrator.reconcile.missed_restarts import MissedRestarts
from orchestrator.reconcile.parts import TROUBLE_PAUSE, ControllerParts
from orchestrator.reconcile.readiness_watch import ReadinessWatch
from orchestrator.reconcile.stillness import Stillness
from orchestrator.reconcile.workers import Workers
from orchestrator.store.departed import find_departed
from orchestrator.store.store import Snapshot

log = logging.getLogger("understudy.controller")

SAFETY_NET = 3.0  # seconds between looks when nothing wakes the loop
CLAIM_PAUSE = 0.05  # seconds that a claim is left alone with the processor; it may be over by then


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
        self._keeper = LeaseKeeper(parts.lease, self._workers)
        self._effects = Effects(parts, self._workers, self.wake, self._stopping)
        self._suspects: frozenset[tuple[str, str]] = frozenset()
        self._hold = ""
        self._balancer_trouble = ""
        self._balancer_retry_at = 0.0
        self._asides = Asides(parts.executor, parts.fence, parts.clock, self.wake)
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
        threading.Thread(target=self._keeper.keep, args=(self._stopping,), name="lease", daemon=True).start()
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    pause = self.turn() if self._keeper.take() else 1.0
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
                    pause = TROUBLE_PAUSE
                on_turn()
                if pause > 0:
                    self._wake.wait(pause)
        finally:
            self._stopping.set()
            self._watch.stop()
            self._workers.stop()
            self._asides.stop()
            self._keeper.release()

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
        self._effects.remember(desired, observed)
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
        self, steps: Sequence[Step], desired: Desired, observed: Observed, busy: Mapping[str, EffectKind]
    ) -> float:
        """A claim is not held up by another look. Seconds to wait before that."""
        claimed = {step.member.name for step in steps if isinstance(step, Claim)}
        if not claimed:
            return 0.0
        self._effects.begin_claimed(desired, observed, busy, claimed)
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
        return Observed(sightings, balancer, self._watch.look(serving), self._effects.failures.repeated())

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
                self._effects.begin(step, sets[step.member.set_name])
                return False
            case Interrupt():
                self._workers.interrupt(step.member.name, step.reason if step.went_off else "")
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
                wanted = sets[step.member.set_name]
                step = replace(step, reason=self._effects.failures.with_console(step.member, step.reason, wanted))
        quiet = isinstance(step, Settle) or (isinstance(step, NotePool | NoteRollout) and not step.events)
        log.log(logging.DEBUG if quiet else logging.INFO, "%s", step.reason)
        return self._parts.recorder.perform(step)

    def _converge_balancer(self, step: ConvergeBalancer) -> bool:
        now = self._parts.clock.monotonic()
        if now < self._balancer_retry_at:
            return False
        self._parts.fence.check()
        try:
            self._parts.balancer.converge(step.config)
        except BalancerError as error:
            self._balancer_retry_at = now + TROUBLE_PAUSE
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
