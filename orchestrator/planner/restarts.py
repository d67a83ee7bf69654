"""Guests that restart by themselves, and those that do not come up after a start (rows A7, D4).

To restart once is a guest's own affair, over and over is a fault: a guest whose services answer for a moment after
each boot would be put into rotation for ever. So each restart that comes before it was well for `grace` counts as
one try that did not help, and it is held out of rotation for growing pauses. Who was in service and does not come
up is held, too, and restarted after each pause. The disk stays, unless `repair.action` says that a fault costs the
body.
"""

from __future__ import annotations

from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.steps import Advance
from orchestrator.planner.backoff import MAX_TRIES, RetryLimits, pause_after


def repair_action(member: Member, wanted: ScaleSet, is_stopped: bool) -> str:
    """What a fault of this member costs. `is_stopped`: the rollout of its set is. An instance of an older model is
    only restarted then: a new body would be of the model that fails."""
    action = wanted.spec.repair.action
    is_kept = is_stopped and member.model != wanted.model and action != "none"
    return "restart" if is_kept else action


def why_no_new_body(member: Member, wanted: ScaleSet, is_stopped: bool) -> str:
    """Empty if a machine that is gone may be made anew."""
    if has_been_in_service(member) and wanted.spec.repair.action == "none":
        return "repair is off"
    if is_stopped and member.role is Role.INSTANCE and member.model != wanted.model:
        why = f"the rollout of {wanted.name} is stopped, and a new one would be of the model that fails"
        return f"{why}; apply the file of before, or a mended one"
    return ""


def plan_restarted(member: Member, action: str) -> Advance:
    """What to record of an instance in service whose guest restarted by itself."""
    once = f"the guest of {member.name} restarts by itself"
    if action == "none" or member.failures == 0:
        return Advance(member, Phase.STARTING, once, is_repair=action != "none")
    again = f"the guest of {member.name} restarts over and over"
    if action == "restart":
        return Advance(member, Phase.STARTING, again, is_repair=True, is_held=True)
    return Advance(member, Phase.FAILED, again)


def has_been_in_service(member: Member) -> bool:
    """With this body: what is on its disk is the operator's."""
    return member.role is Role.INSTANCE and member.entered and member.served


def plan_unanswered(member: Member, wanted: ScaleSet, trouble: str) -> Advance:
    """What to record of a member that does not come up after a start. One that was in service keeps its disk where
    a fault does not cost the body: it is to be restarted or, where repair is off, waited for. Of an older model,
    what becomes of it depends on the rollout: it is kept until then."""
    action = wanted.spec.repair.action
    costs_body = action in ("reimage", "replace") and member.model == wanted.model
    if costs_body or not has_been_in_service(member):
        return Advance(member, Phase.FAILED, trouble)
    asks = Request.RESTART if action != "none" else None
    return Advance(member, Phase.STARTING, trouble, is_held=True, asks=asks)


def plan_went_off(member: Member, wanted: ScaleSet, trouble: str) -> Advance:
    """What to record of a member whose machine went off while it was waited for after a start. That may be a
    mishap of the host, also of one that lost power before; a guest that switches itself off in every boot does not
    come up."""
    is_left = wanted.spec.repair.action == "none" and has_been_in_service(member)
    if member.failures <= 1 and not is_left:
        first_line, _, rest = trouble.partition("\n")
        again = "\n".join(filter(None, (f"{first_line}; starting it again", rest)))
        return Advance(member, Phase.STARTING, again, is_repair=True)
    return plan_unanswered(member, wanted, trouble)


def plan_restart_again(member: Member, action: str) -> Advance:
    """What comes after the pause of one that did not come up, with the `repair_action` of now."""
    first_line = member.reason.partition("\n")[0]
    match action:
        case "restart":
            words = f"restarting {member.name} again: {first_line}"
            return Advance(member, Phase.STARTING, words, is_repair=True, asks=Request.RESTART)
        case "none":
            return Advance(member, Phase.STARTING, member.reason, answered=True, is_held=True)
        case _:
            return Advance(member, Phase.FAILED, member.reason)


def is_held(member: Member) -> bool:
    """Whether it is out of rotation because its guest restarts over and over, or because it did not come up (then
    it is to be restarted, unless repair is off)."""
    return member.phase is Phase.STARTING and member.unhealthy_since is not None


def held_until(member: Member, limits: RetryLimits) -> float | None:
    """When a held member is tried again; None: not before the operator says so."""
    if member.failures >= MAX_TRIES:
        return None
    # The restart with which it began to loop held up nothing yet.
    tries = member.failures if member.request is Request.RESTART else member.failures - 1
    return member.phase_since + pause_after(tries, limits)
