"""Guests that restart by themselves: once is their own affair, over and over is a fault (row D4).

A guest whose services answer for a moment after each boot would be put into rotation for ever. So each restart
that comes before it was well for `grace` counts as one try that did not help, and it is held out of rotation for
growing pauses. Its disk stays, unless `repair.action` says that a fault costs the body.
"""

from __future__ import annotations

from orchestrator.models.members import Member, Phase, ScaleSet
from orchestrator.models.steps import Advance
from orchestrator.planner.backoff import MAX_TRIES, RetryLimits, pause_after


def plan_restarted(member: Member, wanted: ScaleSet) -> Advance:
    """What to record of an instance in service whose guest restarted by itself."""
    action = wanted.spec.repair.action
    once = f"the guest of {member.name} restarts by itself"
    if action == "none" or member.failures == 0:
        return Advance(member, Phase.STARTING, once, is_repair=action != "none")
    again = f"the guest of {member.name} restarts over and over"
    if action == "restart":
        return Advance(member, Phase.STARTING, again, is_repair=True, is_held=True)
    return Advance(member, Phase.FAILED, again)


def is_held(member: Member) -> bool:
    """Whether it is out of rotation because its guest restarts over and over. The operator's word ends that."""
    return member.phase is Phase.STARTING and member.unhealthy_since is not None and member.failures > 0


def held_until(member: Member, limits: RetryLimits) -> float | None:
    """When a held member may serve again; None: not before the operator says so."""
    if member.failures >= MAX_TRIES:
        return None
    return member.phase_since + pause_after(member.failures - 1, limits)
