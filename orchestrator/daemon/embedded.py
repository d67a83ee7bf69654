"""A command that carries its wish out: by the daemon if one holds the lease, else in this process.

Either way the command only watches the store, so what it shows and when it returns do not depend on who works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.daemon.runtime import Runtime
from orchestrator.daemon.wake import Doorbell, ring
from orchestrator.errors import TimedOut, UnderstudyError
from orchestrator.lifecycle.table import AT_REST
from orchestrator.models.members import Member, Phase, Role, ScaleSet

LOOK = 0.05  # seconds between looks at the store while another process works
_OWN_LOOK = 1.0  # the same while this process works: each turn of its controller wakes the wait
_HOLDER_LOOK = 0.5  # seconds between looks whether the other controller still lives


@dataclass(frozen=True)
class Progress:
    """What a waiting command sees; `wanted` None: the set is gone."""

    wanted: ScaleSet | None
    members: tuple[Member, ...]

    @property
    def is_settled(self) -> bool:
        return self.wanted is None or self.wanted.settled_generation >= self.wanted.generation

    @property
    def stuck(self) -> str:
        return self.wanted.stuck if self.wanted is not None and self.is_settled else ""

    @property
    def in_service(self) -> int:
        return sum(
            member.phase is Phase.IN_SERVICE and member.role is Role.INSTANCE and not member.is_leaving
            for member in self.members
        )


OnProgress = Callable[[Progress], None]


def carry_out(runtime: Runtime, set_name: str, on_progress: OnProgress, timeout: float | None) -> None:
    """Return when the wish for the set is met.

    Raises UnderstudyError with the reason once only waiting could help (without `timeout`), TimedOut after
    `timeout` seconds. Interrupting it loses nothing: wish and phases are in the store.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ring(runtime.paths.doorbells)
    worker = _Worker(runtime)
    try:
        while True:
            worker.ensure()
            now = _look(runtime, set_name)
            on_progress(now)
            if now.is_settled and not now.stuck:
                return
            if now.stuck and deadline is None:
                raise UnderstudyError(
                    f"set {set_name!r} cannot be completed now: {now.stuck}",
                    f"mend the cause, then apply again, or let 'understudy serve' try on; "
                    f"see: understudy events {set_name}",
                )
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(
                    f"set {set_name!r} is not as declared after {timeout:.0f} s: {_what_is_missing(now)}",
                    f"it goes on with the next command or 'understudy serve'; see: understudy status {set_name}",
                )
            worker.wait()
    finally:
        worker.close()


def _look(runtime: Runtime, set_name: str) -> Progress:
    snapshot = runtime.store.snapshot()
    wanted = next((one for one in snapshot.sets if one.name == set_name), None)
    return Progress(wanted, tuple(one for one in snapshot.members if one.set_name == set_name))


def _what_is_missing(now: Progress) -> str:
    if now.stuck:
        return now.stuck
    busy = [f"{member.name} is {member.phase.value}" for member in now.members if member.phase not in AT_REST]
    return ", ".join(busy) or "still at work"


class _Worker:
    """The controller of this process, started only when nobody else is one."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._turned = threading.Event()
        self._next_look = 0.0

    def ensure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is not None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _HOLDER_LOOK
        if self._runtime.lease.find_other_holder() is not None:
            return
        self._controller = self._runtime.controller()
        self._thread = threading.Thread(target=self._run, name="controller")
        self._thread.start()

    def wait(self) -> None:
        """Until there may be something new to see."""
        self._turned.wait(LOOK if self._thread is None else _OWN_LOOK)
        self._turned.clear()

    def _run(self) -> None:
        bell = Doorbell(self._runtime.paths.doorbells, self._controller.wake)
        try:
            self._controller.run(self._turned.set)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error
        finally:
            bell.close()
            self._turned.set()

    def close(self) -> None:
        if self._thread is not None:
            self._controller.stop()
            self._thread.join()
