"""Rows <-> values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from orchestrator.models.events import Event
from orchestrator.models.members import (
    GuestPhase,
    Image,
    Member,
    Phase,
    PoolCondition,
    PoolLevel,
    PoolState,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive


@lru_cache(maxsize=1024)
def read_spec(text: str) -> ScaleSetSpec:
    """Parsed once for each text: the loop reads the same specs many times a second."""
    return ScaleSetSpec.model_validate_json(text)


def read_image(row: Any) -> Image:
    return Image(
        name=row.name,
        version=row.version,
        digest=row.digest,
        size=row.size,
        virtual_size=row.virtual_size,
        created_at=row.created_at,
        source=row.source,
    )


def read_set(row: Any, image: Image) -> ScaleSet:
    return ScaleSet(
        spec=read_spec(row.spec),
        model=row.model,
        image=image,
        generation=row.generation,
        settled_generation=row.settled_generation,
        deleting=row.deleting,
        stuck=row.stuck,
        pool=PoolCondition(PoolLevel(row.pool_level), row.pool_degraded),
        rollout=RolloutCondition(RolloutLevel(row.rollout_level), row.rollout_model),
    )


def read_drive(row: Any) -> Drive:
    return Drive(
        set_name=row.set_name,
        name=row.name,
        slot=row.slot,
        host=row.host,
        size=row.size,
        member=row.member,
        created_at=row.created_at,
        is_made=row.is_made,
        is_deleting=row.is_deleting,
        failures=row.failures,
    )


def read_member(row: Any, drives: tuple[Drive, ...] = ()) -> Member:
    return Member(
        name=row.name,
        set_name=row.set_name,
        role=Role(row.role),
        phase=Phase(row.phase),
        host=row.host,
        zone=row.zone,
        address=row.address,
        mac=row.mac,
        incarnation=row.incarnation,
        model=row.model,
        image_digest=row.image_digest,
        request=Request(row.request) if row.request else None,
        reason=row.reason,
        failures=row.failures,
        created_at=row.created_at,
        phase_since=row.phase_since,
        parked=PoolState(row.parked) if row.parked else None,
        restarts=row.restarts,
        unhealthy_since=row.unhealthy_since,
        told=GuestPhase(row.told) if row.told else None,
        entered=row.entered,
        storage_since=row.storage_since,
        drives=drives,
    )


def read_event(row: Any) -> Event:
    return Event(row.id, row.at, row.set_name, row.member, row.kind, row.reason)
