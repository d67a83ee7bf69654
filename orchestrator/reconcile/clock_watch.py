"""Notices when the machine's clock is set: what is timed must neither end nor begin anew because of that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.ports.clock import Clock

_MOST_SECONDS = 5.0  # what a clock that is slewed, or another machine's, may be off


@dataclass(frozen=True)
class ClockJump:
    """`before`: what the clock said when it was last right. `by`: seconds that it went ahead since (or back,
    negative) beyond those that passed."""

    before: float
    by: float

    @property
    def words(self) -> str:
        if not self.by:
            return "the clock of this machine is behind what is recorded; what is timed begins anew"
        where = "ahead" if self.by > 0 else "back"
        return f"the clock of this machine was set {where} by {abs(self.by):.0f} s; what is timed goes on"


class ClockWatch:
    """Compares the clock with one that nobody sets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = (clock.now(), clock.monotonic())

    def look(self, recorded: Iterable[float]) -> ClockJump | None:
        """A jump since the last look, or one before the first that left `recorded` times in the future."""
        before, monotonic = self._last
        self._last = self._clock.now(), self._clock.monotonic()
        by = (self._last[0] - before) - (self._last[1] - monotonic)
        if abs(by) > _MOST_SECONDS:
            return ClockJump(before, by)
        if max(recorded, default=0.0) > self._last[0] + _MOST_SECONDS:
            return ClockJump(before, 0.0)
        return None
