"""Effects under way: beside the loop, bounded per host, each with its own cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from orchestrator.models.members import Role
from orchestrator.models.steps import Effect, EffectKind

# What makes a host's processors and disks busy, in two lanes: machines made from nothing, and memory written to
# disk, never hold back a machine that only has to start (a claim, a restart). Shutting down and removing give
# room: they are not bounded, but have threads of their own, so that guests that do not hear hold back nobody. So
# has telling guests their phase.
_LANES = (
    frozenset({EffectKind.CREATE, EffectKind.FORK, EffectKind.PROVISION, EffectKind.HIBERNATE}),
    frozenset({EffectKind.START, EffectKind.AWAIT}),
)
_LIGHT_THREADS = 16


@dataclass(frozen=True)
class Work:
    """One effect under way. `term`: that of the lease under which it was decided. `faults`: of its machine, for
    which it was cancelled."""

    effect: Effect
    term: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    faults: list[str] = field(default_factory=list)


class Workers:
    """Thread-safe. `parallel` bounds each lane per host; in both the reserve leaves a place for the set."""

    def __init__(self, parallel: int, hosts: int) -> None:
        self._parallel = parallel
        self._lock = threading.Lock()
        self._works: dict[str, Work] = {}
        self._not_before: dict[str, float] = {}
        self._heavy = ThreadPoolExecutor(max_workers=hosts * parallel * len(_LANES), thread_name_prefix="work")
        self._tell = ThreadPoolExecutor(max_workers=hosts * _LIGHT_THREADS, thread_name_prefix="tell")
        self._light = ThreadPoolExecutor(max_workers=hosts * _LIGHT_THREADS, thread_name_prefix="light")

    def busy(self) -> dict[str, EffectKind]:
        """Member -> the effect under way on it."""
        with self._lock:
            return {name: work.effect.kind for name, work in self._works.items()}

    def try_start(
        self,
        effect: Effect,
        run: Callable[[Work], None],
        done: Callable[[], None],
        term: int = 0,
        instead_of: Work | None = None,
    ) -> bool:
        """False if the member is busy or its host has no place; it will be planned again.

        `instead_of`: the work on the same member that is about to end and begins this one. In between the member
        is not free, so that nobody plans on what its record said before.
        """
        work = Work(effect, term)
        with self._lock:
            if self._works.get(effect.member.name) is not instead_of or not self._has_place(effect, instead_of):
                return False
            if time.monotonic() < self._not_before.get(effect.member.name, 0.0):
                return False
            self._not_before.pop(effect.member.name, None)
            self._works[effect.member.name] = work
        pool = self._light if _lane_of(effect) is None else self._heavy
        pool = self._tell if effect.kind is EffectKind.TELL else pool
        pool.submit(self._run, work, run, done)
        return True

    def interrupt(self, member: str, fault: str = "") -> None:
        """`fault`: of its machine, where that is why."""
        with self._lock:
            work = self._works.get(member)
        if work is not None:
            if fault:
                work.faults.append(fault)
            work.cancelled.set()

    def interrupt_all(self) -> int:
        """How many effects were under way. A golden image is taken in a moment, and nobody else will take it: it
        is waited for."""
        with self._lock:
            works = [one for one in self._works.values() if one.effect.kind is not EffectKind.TAKE_GOLDEN]
        for work in works:
            work.cancelled.set()
        return len(works)

    def pause(self, member: str, seconds: float) -> None:
        """Start nothing on this member for a while: what just failed would fail again."""
        with self._lock:
            self._not_before[member] = time.monotonic() + seconds

    def stop(self) -> None:
        """Cancel everything and wait until the threads are done; phases stay, so that work can be taken up."""
        self.interrupt_all()
        for pool in (self._heavy, self._light, self._tell):
            pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, work: Work, run: Callable[[Work], None], done: Callable[[], None]) -> None:
        try:
            run(work)
        finally:
            with self._lock:
                if self._works[work.effect.member.name] is work:
                    del self._works[work.effect.member.name]
            done()

    def _has_place(self, effect: Effect, instead_of: Work | None) -> bool:
        lane = _lane_of(effect)
        if lane is None:
            return True
        heavy = [
            work.effect
            for work in self._works.values()
            if work is not instead_of
            and work.effect.kind in lane
            and work.effect.member.host == effect.member.host
        ]
        if effect.member.role is Role.STANDBY:
            reserve = sum(one.member.role is Role.STANDBY for one in heavy)
            if reserve >= max(self._parallel - 1, 1):
                return False
        return len(heavy) < self._parallel


def _lane_of(effect: Effect) -> frozenset[EffectKind] | None:
    return next((kinds for kinds in _LANES if effect.kind in kinds), None)
