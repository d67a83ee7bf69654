"""Growing pauses between tries."""

from __future__ import annotations

from typing import Protocol

from orchestrator.models.members import Member


class RetryLimits(Protocol):
    """The part of `Limits` that retries need; seconds."""

    @property
    def retry_pause(self) -> float: ...
    @property
    def retry_pause_max(self) -> float: ...
    @property
    def repair_patience(self) -> float: ...


MAX_TRIES = 5
"""After so many an instance is given up until the operator says otherwise (row D4)."""


def pause_after(failures: int, limits: RetryLimits) -> float:
    """Seconds: 30 after the first failure, doubling, bounded (row B11)."""
    doubling = 2.0 ** min(max(failures - 1, 0), 30)
    return min(limits.retry_pause * doubling, limits.retry_pause_max)


def retry_at(member: Member, limits: RetryLimits) -> float:
    """When a failed member is due again."""
    return member.phase_since + pause_after(member.failures, limits)
