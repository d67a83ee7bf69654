"""What happened, in words an operator reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`at` is seconds since the epoch; `member` may be empty for what concerns the set."""

    id: int
    at: float
    set_name: str
    member: str
    kind: str
    reason: str
