"""One line of what `scripts/bench` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """`bound` None: reported only. `value` None: not measured; `what` says why."""

    what: str
    value: float | None
    unit: str
    bound: float | None = None

    @property
    def ok(self) -> bool:
        return self.bound is None or (self.value is not None and self.value <= self.bound)
