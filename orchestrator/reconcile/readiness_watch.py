"""Readiness probes that the load balancer does not ask: commands, and ports behind no endpoint.

They are asked again and again of every instance in service, beside the loop. What they find is part of what is
observed: the members whose services are silent. Nothing is recorded here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.errors import Interrupted, UnderstudyError
from orchestrator.models.members import Member, ScaleSet
from orchestrator.models.spec import Probe
from orchestrator.planner.repair import probes_to_watch
from orchestrator.ports.clock import Clock

_THREADS = 8
# A command is asked over SSH, which costs the guest a login each time.
_COMMAND_INTERVAL = 10.0

Ask = Callable[[Member, Probe, float, Callable[[], bool]], None]
"""Asks one probe of a member until it passes, at most so many seconds; raises UnderstudyError if it does not."""


@dataclass
class _Watched:
    """`body`: which body, and the probes that are asked of it; `due` (monotonic seconds) when next; `is_silent`:
    what was found last."""

    body: tuple[int, tuple[Probe, ...]]
    due: float
    is_asked: bool = False
    is_silent: bool = False


class ReadinessWatch:
    """Thread-safe. `wake` is called when a member falls silent or answers again."""

    def __init__(self, ask: Ask, clock: Clock, wake: Callable[[], None]) -> None:
        self._ask = ask
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="watch")

    def look(self, wanted: Iterable[tuple[ScaleSet, Member]]) -> frozenset[str]:
        """Ask who is due of these instances, forget all others; the members that are silent as far as is known."""
        now = self._clock.monotonic()
        with self._lock:
            known, self._watched = self._watched, {}
            for a_set, member in wanted:
                probes = probes_to_watch(a_set.spec)
                if probes:
                    self._watched[member.name] = self._keep(known.get(member.name), member, probes, now)
            return frozenset(name for name, one in self._watched.items() if one.is_silent)

    def _keep(self, found: _Watched | None, member: Member, probes: tuple[Probe, ...], now: float) -> _Watched:
        body = (member.incarnation, probes)
        if found is None or found.body != body:
            # It was ready a moment ago, or another process watched it: there is time.
            found = _Watched(body, now + _interval(probes))
        if not found.is_asked and now >= found.due and not self._ending.is_set():
            found.is_asked = True
            self._pool.submit(self._ask_all, member, found)
        return found

    def _ask_all(self, member: Member, watched: _Watched) -> None:
        silent = False
        try:
            for probe in watched.body[1]:
                patience = max(probe.interval, 1.0) * probe.failures
                self._ask(member, probe, patience, self._ending.is_set)
        except Interrupted:
            silent = watched.is_silent
        except UnderstudyError:
            silent = True
        finally:
            with self._lock:
                changed, watched.is_silent = watched.is_silent != silent, silent
                watched.is_asked = False
                watched.due = self._clock.monotonic() + _interval(watched.body[1])
        if changed:
            self._wake()

    def stop(self) -> None:
        self._ending.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _interval(probes: tuple[Probe, ...]) -> float:
    return max(max(probe.interval, _COMMAND_INTERVAL if probe.command else 0.0) for probe in probes)
