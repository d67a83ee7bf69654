"""What is done to hosts as they show themselves: a leak or a golden image is removed, a paused machine goes on.

Beside the loop, because a QEMU that hangs answers late, or never: that must not hold up the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from orchestrator.apply.executor import Executor
from orchestrator.errors import UnderstudyError
from orchestrator.models.steps import RemoveGolden, RemoveLeak, Resume
from orchestrator.ports.clock import Clock
from orchestrator.store import Fence

log = logging.getLogger("understudy.controller")

Aside = RemoveLeak | RemoveGolden | Resume
_PAUSE = 2.0  # seconds before the same is tried again
_THREADS = 8


class Asides:
    """One at a time for each machine or golden image. `on_done` is called from another thread after a success."""

    def __init__(self, executor: Executor, fence: Fence, clock: Clock, on_done: Callable[[], None]) -> None:
        self._executor = executor
        self._fence = fence
        self._clock = clock
        self._on_done = on_done
        self._lock = threading.Lock()
        self._under_way: set[tuple[str, str]] = set()  # (host, domain or model)
        self._not_before: dict[tuple[str, str], float] = {}
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="aside")

    def begin(self, step: Aside, term: int) -> None:
        """Decided under that term of the lease. Nothing is begun anew while it is under way, or just was."""
        subject, now = _subject(step), self._clock.monotonic()
        with self._lock:
            if subject in self._under_way or now < self._not_before.get(subject, 0.0):
                return
            self._under_way.add(subject)
            self._not_before[subject] = now + _PAUSE
        log.log(logging.INFO if isinstance(step, RemoveGolden) else logging.WARNING, "%s", step.reason)
        self._pool.submit(self._perform, step, term)

    def stop(self) -> None:
        """Wait until the threads are done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _perform(self, step: Aside, term: int) -> None:
        is_done = False
        try:
            with self._fence.acting(term):
                match step:
                    case Resume():
                        self._executor.resume(step.host, step.domain)
                    case RemoveGolden():
                        self._executor.remove_golden(step.host, step.model)
                    case RemoveLeak():
                        self._executor.remove_leak(step.host, step.domain)
            is_done = True
        except UnderstudyError as error:
            log.error("%s: %s", step.reason, error.message)
        except Exception:  # one machine must never stop the loop
            log.exception("%s: unexpected failure", step.reason)
        finally:
            with self._lock:
                self._under_way.discard(_subject(step))
        if is_done:
            self._on_done()


def _subject(step: Aside) -> tuple[str, str]:
    return step.host, step.model if isinstance(step, RemoveGolden) else step.domain
