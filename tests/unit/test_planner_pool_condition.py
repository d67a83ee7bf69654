"""What is told about a pool as a whole (row B13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.models.members import Member, Phase, PoolCondition, PoolLevel, Role, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.planner.pool_condition import note_pool
from tests.builders import make_member, make_set, make_spec

NEVER, FILLING, FULL, EXHAUSTED = PoolLevel.NEVER, PoolLevel.FILLING, PoolLevel.FULL, PoolLevel.EXHAUSTED


def pool_of(count: int, level: PoolLevel = NEVER, is_degraded: bool = False) -> ScaleSet:
    made = make_set(make_spec(instances=0, standby={"max_ready": count, "state": "stopped"}))
    return replace(made, pool=PoolCondition(level, is_degraded))


def spare(wanted: ScaleSet, number: int, **fields: Any) -> Member:
    return make_member(wanted, f"{number:05}", **{"role": Role.STANDBY, "phase": Phase.STANDBY, **fields})


def told(wanted: ScaleSet, *members: Member, power: Power = Power.STOPPED) -> list[str] | None:
    """Kinds of events; None: nothing is recorded."""
    change = note_pool(wanted, list(members), {member.name: power for member in members})
    return None if change is None else [kind for kind, _ in change.events]


@pytest.mark.parametrize(
    ("before", "ready", "kinds"),
    [
        (NEVER, 0, None),
        (NEVER, 1, []),
        (NEVER, 2, ["pool_full"]),
        (FILLING, 2, ["pool_full"]),
        (FULL, 2, None),
        (FULL, 1, []),
        (FULL, 0, ["pool_exhausted"]),
        (FILLING, 0, ["pool_exhausted"]),
        (EXHAUSTED, 0, None),
        (EXHAUSTED, 1, []),
    ],
)
def test_a_change_of_level_is_told_once(before: PoolLevel, ready: int, kinds: list[str] | None) -> None:
    wanted = pool_of(2, before)
    assert told(wanted, *(spare(wanted, number) for number in range(ready))) == kinds


def test_a_failed_member_degrades_the_pool_and_its_reason_is_told() -> None:
    wanted = pool_of(2, FILLING)
    failed = spare(wanted, 2, phase=Phase.FAILED, reason="no room\nconsole of it")
    change = note_pool(
        wanted, [spare(wanted, 1), failed], dict.fromkeys(["web-00001", "web-00002"], Power.STOPPED)
    )
    assert change is not None
    assert change.events == (("pool_degraded", "the standby pool of web is degraded: web-00002 failed: no room"),)
    assert change.condition.is_degraded


def test_recovery_is_told() -> None:
    wanted = pool_of(1, FULL, is_degraded=True)
    assert told(wanted, spare(wanted, 1)) == ["pool_recovered"]


def test_a_member_that_is_tried_again_has_not_recovered_yet() -> None:
    wanted = pool_of(2, FILLING, is_degraded=True)
    assert told(wanted, spare(wanted, 1), spare(wanted, 2, phase=Phase.CREATING, failures=3)) is None


def test_nothing_is_told_while_a_host_hides_part_of_the_pool() -> None:
    wanted = pool_of(1, FULL)
    assert told(wanted, spare(wanted, 1), power=Power.UNKNOWN) is None


def test_a_pool_that_is_given_up_begins_anew() -> None:
    wanted = replace(make_set(), pool=PoolCondition(FULL))
    change = note_pool(wanted, [], {})
    assert change is not None
    assert (change.condition, change.events) == (PoolCondition(), ())


def test_members_that_leave_do_not_count() -> None:
    wanted = pool_of(1, FULL)
    assert told(wanted, spare(wanted, 1, phase=Phase.DELETING)) == ["pool_exhausted"]
