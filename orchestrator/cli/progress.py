"""What a waiting command shows: bars on a terminal, one line for each event elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from orchestrator.models.members import Phase, Role

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from orchestrator.daemon.embedded import Progress
    from orchestrator.daemon.runtime import Runtime

# How far a member has come when it enters a phase, in percent; provisioning moves by time.
_REACHED = {
    Phase.CREATING: 2.0,
    Phase.PROVISIONING: 10.0,
    Phase.PARKING: 95.0,
    Phase.STARTING: 50.0,
    Phase.READY: 95.0,
    Phase.STANDBY: 100.0,
    Phase.IN_SERVICE: 100.0,
    Phase.STOPPED: 100.0,
}
_USUAL_SECONDS = 60.0
_QUIET = frozenset({"converged", "set_declared", "settings_changed", "step_output", "told"})


class Show:
    """Use as a context manager; call it with each Progress. Says when the instances were in service."""

    def __init__(self, runtime: Runtime, set_name: str) -> None:
        self._runtime = runtime
        self._set = set_name
        self._began = time.monotonic()
        events = runtime.store.list_events(None, limit=1)
        self._last_event = events[-1].id if events else 0
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._usual: dict[str, float] = {}
        self._was_short = False
        self.grown_after: float | None = None

    def __enter__(self) -> Show:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bars = Progress(
                TextColumn("{task.fields[name]}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                refresh_per_second=8,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, now: Progress) -> None:
        complete = now.wanted is not None and now.in_service >= now.wanted.wanted_instances > 0
        self._was_short |= not complete
        if complete and self._was_short:
            self.grown_after, self._was_short = time.monotonic() - self._began, False
        self._print_events()
        if self._bars is not None:
            self._move_bars(self._bars, now)

    def _print_events(self) -> None:
        for event in self._runtime.store.list_events(self._set, after=self._last_event):
            self._last_event = event.id
            if event.kind in _QUIET:
                continue
            line = f"{time.monotonic() - self._began:7.1f} s  {event.reason.partition(chr(10))[0]}"
            if self._bars is not None:
                self._bars.console.print(line, markup=False, highlight=False)
            else:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()

    def _move_bars(self, bars: Bars, now: Progress) -> None:
        for member in now.members:
            if member.name not in self._tasks:
                self._tasks[member.name] = bars.add_task("", total=100.0, name=member.name)
            reached = _REACHED.get(member.phase, 0.0)
            if member.phase is Phase.PROVISIONING:
                usual = self._usual_seconds(member.model)
                reached += min((time.time() - member.phase_since) / usual, 1.0) * 80
            role = "pool" if member.role is Role.STANDBY else "set"
            words = f"{role}: {member.phase.value.replace('_', ' ')}"
            bars.update(self._tasks[member.name], completed=reached, description=words)
        for name in set(self._tasks) - {member.name for member in now.members}:
            bars.update(self._tasks.pop(name), completed=100.0, description="gone")

    def _usual_seconds(self, model: str) -> float:
        if model not in self._usual:
            known = self._runtime.store.read_fact(f"setup_seconds:{model}")
            self._usual[model] = max(float(known or _USUAL_SECONDS), 0.1)
        return self._usual[model]
