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


def retry_at(member: Member, limits: RetryLimits) -> float:
    """When a failed member is due again: 30 s after the first failure, doubling, bounded (row B11)."""
    doubling = 2.0 ** min(max(member.failures - 1, 0), 30)
    return member.phase_since + min(limits.retry_pause * doubling, limits.retry_pause_max)
