"""Rows <-> values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def image_key(row: Any) -> tuple[str, int]:
    """(name, version) of the image that a set's row names."""
    return row.image_name, row.image_version


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
        file=row.file,
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
        last_failure=row.last_failure,
        served=row.served,
        memory=row.memory,
        drives=drives,
    )


class MemberReader:
    """Reads all members again and again: one whose row and drives are the same as the last time is the same value.

    Thread-safe: what was read last is put in place as a whole.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[tuple[Any, ...], Member]] = {}

    def read(self, rows: Iterable[Any], held: Mapping[str | None, tuple[Drive, ...]]) -> tuple[Member, ...]:
        """`held` are the drives of each."""
        last, read = self._last, {}
        for row in rows:
            values, name = tuple(row), row.name
            before = last.get(name)
            drives = held.get(name, ())
            if before is None or before[0] != values or before[1].drives != drives:
                before = values, read_member(row, drives)
            read[name] = before
        self._last = read
        return tuple(member for _, member in read.values())


def read_event(row: Any) -> Event:
    return Event(row.id, row.at, row.set_name, row.member, row.kind, row.reason)
