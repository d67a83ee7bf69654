"""What a step makes of its member's row, and the condition under which it may."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement

from orchestrator.models.members import Member, Phase, Request, Role
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


def plain_change(step: Claim | Repair | NoteHealth | NoteRestart | Retire | Renew) -> tuple[str, dict[str, Any]]:
    """(kind of event, columns) of a step that changes one member and nothing else."""
    match step:
        case Claim():
            role, phase = Role.INSTANCE.value, step.phase.value
            return "claim_served", {"role": role, "phase": phase, "failures": step.failures, "told": None}
        case Repair():
            return "repairing", {"request": step.request.value, "failures": step.member.failures + 1}
        case NoteHealth():
            kind = "healthy" if step.unhealthy_since is None else "unhealthy"
            over = {"failures": 0} if step.is_well else {}
            return kind, {"unhealthy_since": step.unhealthy_since, **over}
        case NoteRestart():
            return "setup_restart", {"restarts": step.member.restarts + 1}
        case Retire():
            return "retired", {"request": Request.REMOVE.value}
        case Renew():
            return "renewed", {"request": Request.REIMAGE.value}


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
        values["failures"] = 0  # those of another model say nothing about this one
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
        return {"failures": 0}
    is_try = step.phase is Phase.FAILED or step.is_repair
    return {"failures": step.member.failures + 1} if is_try else {}


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
