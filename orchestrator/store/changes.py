"""What a step makes of its member's row, and the condition under which it may."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement

from orchestrator.models.members import Member, Phase, PoolState, Request, Role
from orchestrator.models.steps import (
    Advance,
    Claim,
    EffectKind,
    NoteHealth,
    NoteRestart,
    Renew,
    Repair,
    Retire,
)
from orchestrator.store.rows import read_spec
from orchestrator.store.tables import members

_LONGEST_FAILURE = 2000  # characters: a sentence and the end of a console
NO_FAILURES: dict[str, Any] = {"failures": 0, "last_failure": ""}


def plain_change(step: Claim | Repair | NoteHealth | NoteRestart | Retire | Renew) -> tuple[str, dict[str, Any]]:
    """(kind of event, columns) of a step that changes one member and nothing else."""
    match step:
        case Claim():
            # Failures come with the place of one that had served.
            place = {"role": Role.INSTANCE.value, "phase": step.phase.value, "served": step.failures > 0}
            return "claim_served", {**place, "told": None, **counted(step.failures, step.reason)}
        case Repair():
            return "repairing", {"request": step.request.value, **counted(step.member.failures + 1, step.reason)}
        case NoteHealth():
            kind = "healthy" if step.unhealthy_since is None else "unhealthy"
            over = NO_FAILURES if step.is_well else {}
            return kind, {"unhealthy_since": step.unhealthy_since, **over}
        case NoteRestart():
            return "setup_restart", {"restarts": step.member.restarts + 1}
        case Retire():
            return "retired", {"request": Request.REMOVE.value}
        case Renew():
            return "renewed", {"request": Request.REIMAGE.value}


def counted(failures: int, reason: str) -> dict[str, Any]:
    """So many tries that did not help, and what the last of them says."""
    return {"failures": failures, "last_failure": reason[:_LONGEST_FAILURE]} if failures else NO_FAILURES


def next_columns(step: Advance, now: float) -> dict[str, Any]:
    """Columns of a member that advances, but for those of a new body. `now`: seconds since the epoch."""
    values: dict[str, Any] = {"phase": step.phase.value}
    if step.phase is Phase.STARTING or (step.phase is Phase.STANDBY and step.parked is not PoolState.RUNNING):
        values["told"] = None
    if step.phase is Phase.IN_SERVICE:
        values |= {"parked": None, "entered": True, "served": True}
    if step.parked is not None:
        values["parked"] = step.parked.value
    if step.answered or step.asks is not None:
        values["request"] = step.asks.value if step.asks is not None else None
    if step.is_held:
        values["unhealthy_since"] = now
    return values | tries_after(step)


def new_body(step: Advance, declared: Any, image_digest: str) -> dict[str, Any]:
    """Columns of a member that begins a new incarnation; `declared` is the row of its set."""
    member = step.member
    values: dict[str, Any] = {
        "incarnation": member.incarnation + 1,
        "model": declared.model,
        "image_digest": image_digest,
        "parked": None,
        "restarts": 0,
        "told": None,
        "entered": False,
        # Until the new one is made, the machine of before may be there.
        "memory": max(member.memory, read_spec(declared.spec).machine.memory),
    }
    if declared.model != member.model:
        values |= NO_FAILURES  # those of another model say nothing about this one
    if step.new_storage:
        values["storage_since"] = member.incarnation + 1
    return values


def made_body(member: Member, declared: Any) -> dict[str, Any]:
    """Columns of a member whose machine was made; `declared` is the row of its set. If that is of another model by
    now, the machine may be of the one or the other."""
    return {"memory": read_spec(declared.spec).machine.memory} if declared.model == member.model else {}


def tries_after(step: Advance) -> dict[str, Any]:
    """What an advance makes of the tries that did not help."""
    if step.phase is Phase.STANDBY:
        return NO_FAILURES
    is_try = step.phase is Phase.FAILED or step.is_repair
    tries = step.member.failures + is_try
    return counted(tries, step.reason) if is_try or (step.is_held and tries) else {}


def has_drives(member: Member, kind: EffectKind) -> bool:
    """After such an effect the machine has the drives of its member. What is told later finds what is there."""
    tells_at_start = kind is EffectKind.TELL and member.phase is Phase.STARTING
    return tells_at_start or kind in (EffectKind.CREATE, EffectKind.FORK, EffectKind.AWAIT)


def as_planned(member: Member) -> ColumnElement[bool]:
    """Its row is as it was when the step was planned."""
    request = members.c.request.is_(None) if member.request is None else members.c.request == member.request.value
    return (
        (members.c.name == member.name)
        & (members.c.phase == member.phase.value)
        & (members.c.incarnation == member.incarnation)
        & request
    )
