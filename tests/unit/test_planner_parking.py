"""Which member of a pool is kept in which state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.members import Member, Phase, PoolState, Role, ScaleSet
from orchestrator.planner.parking import assign_states, quotas
from tests.builders import make_member, make_set, make_spec
from tests.unit.examples import many

RUNNING, HIBERNATED, STOPPED = PoolState.RUNNING, PoolState.HIBERNATED, PoolState.STOPPED


def mixed(size: int, **shares: str) -> ScaleSet:
    return make_set(make_spec(instances=0, standby={"max_ready": size, "state": shares}))


def spare(wanted: ScaleSet, number: int, parked: PoolState | None = None, phase: Phase = Phase.STANDBY) -> Member:
    return make_member(wanted, f"{number:05}", role=Role.STANDBY, phase=phase, parked=parked)


@pytest.mark.parametrize(
    ("shares", "size", "counts"),
    [
        ({RUNNING: 20, STOPPED: 80}, 10, {RUNNING: 2, STOPPED: 8}),
        ({RUNNING: 20, STOPPED: 80}, 4, {RUNNING: 1, STOPPED: 3}),
        ({RUNNING: 20, STOPPED: 80}, 1, {RUNNING: 0, STOPPED: 1}),
        ({RUNNING: 50, STOPPED: 50}, 3, {RUNNING: 2, STOPPED: 1}),
        ({RUNNING: 34, HIBERNATED: 33, STOPPED: 33}, 3, {RUNNING: 1, HIBERNATED: 1, STOPPED: 1}),
        ({STOPPED: 100}, 7, {STOPPED: 7}),
    ],
)
def test_percentages_become_whole_members(
    shares: dict[PoolState, int], size: int, counts: dict[PoolState, int]
) -> None:
    assert quotas(shares, size) == counts


@many
@given(st.integers(1, 99), st.integers(0, 500))
def test_quotas_add_up_and_are_never_a_whole_member_off(share: int, size: int) -> None:
    counts = quotas({RUNNING: share, STOPPED: 100 - share}, size)
    assert sum(counts.values()) == size
    assert abs(counts[RUNNING] - size * share / 100) < 1


def test_a_new_pool_is_shared_out() -> None:
    wanted = mixed(4, running="25%", stopped="75%")
    pool = [spare(wanted, number, phase=Phase.PROVISIONING) for number in range(1, 5)]
    assert sorted(assign_states(wanted, pool).values()) == [RUNNING, STOPPED, STOPPED, STOPPED]


def test_as_few_as_possible_are_moved_when_the_mix_changes() -> None:
    wanted = mixed(4, running="50%", stopped="50%")
    pool = [spare(wanted, number, STOPPED if number > 1 else RUNNING) for number in range(1, 5)]
    assigned = assign_states(wanted, pool)
    moved = [member.name for member in pool if assigned[member.name] is not member.parked]
    assert len(moved) == 1
    assert sorted(assigned.values()) == [RUNNING, RUNNING, STOPPED, STOPPED]


@many
@given(st.lists(st.sampled_from([None, *PoolState]), max_size=8), st.integers(0, 8))
def test_a_pool_that_is_as_assigned_stays_so(states: list[PoolState | None], size: int) -> None:
    wanted = mixed(size, running="30%", hibernated="30%", stopped="40%")
    pool = [spare(wanted, number, state) for number, state in enumerate(states)]
    once = assign_states(wanted, pool)
    settled = [spare(wanted, number, once[member.name]) for number, member in enumerate(pool)]
    assert assign_states(wanted, settled) == once
