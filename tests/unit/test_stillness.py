"""Looks that need no plan: only while nothing is to be done, whatever the moment, and nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.members import Phase, PoolState, Request, Role, RolloutCondition, RolloutLevel
from orchestrator.models.sightings import Observed, Power, Rotation
from orchestrator.models.steps import EffectKind, Plan, Settle
from orchestrator.planner import Desired, plan
from orchestrator.reconcile.stillness import PLANNED_WITHIN, Stillness, is_at_rest
from tests.builders import (
    NOW,
    PREFIX,
    make_member,
    make_set,
    make_spec,
    see_balancer,
    see_host,
    see_machine,
    see_server,
    see_world,
    wish,
)
from tests.fakes import FakeClock
from tests.unit.examples import many
from tests.unit.world import World, at_rest
from tests.unit.worlds import worlds

WEB = make_set(make_spec(standby={"state": "stopped", "max_ready": 3}), settled_generation=1)
ONE, TWO = make_member(WEB, "00001"), make_member(WEB, "00002")
SPARE = make_member(WEB, "00003", role=Role.STANDBY, phase=Phase.STANDBY, parked=PoolState.STOPPED)
NOTHING = Plan(())


def recorded(**fields: Any) -> Desired:
    return replace(wish(WEB, members=[ONE, TWO, SPARE]), **fields)


def seen(power: Power = Power.RUNNING, sessions: int = 0, is_up: bool = True, free: int = 2**30) -> Observed:
    host = see_host(see_machine(ONE, power), see_machine(TWO), see_machine(SPARE, Power.STOPPED), memory_free=free)
    servers = {one.name: see_server(Rotation.READY, sessions, is_up) for one in (ONE, TWO)}
    return see_world(host, balancer=see_balancer(WEB, servers))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def still(clock: FakeClock) -> Stillness:
    """That has seen nothing to do."""
    made = Stillness(clock)
    made.remember(recorded(), seen(), {}, NOTHING)
    return made


@many
@given(worlds(), st.floats(0.0, 1e8))
def test_what_is_at_rest_needs_no_plan_at_any_later_moment(start: World, later: float) -> None:
    """What a controller relies on that does not plan again."""
    world = at_rest(start)
    if not is_at_rest(world.desired()):
        return
    made = plan(world.desired(), world.observed(), {}, world.now, world.suspects)
    if made == NOTHING:
        assert plan(world.desired(), world.observed(), {}, world.now + later, frozenset()) == NOTHING


def test_the_same_picture_needs_no_plan(still: Stillness) -> None:
    assert still.needs_no_plan(recorded(), seen(), {})


def test_before_the_first_look_everything_is_planned(clock: FakeClock) -> None:
    assert not Stillness(clock).needs_no_plan(recorded(), seen(), {})


def test_sessions_and_free_memory_are_no_reason_to_plan(still: Stillness) -> None:
    assert still.needs_no_plan(recorded(), seen(sessions=7, free=2**20), {})


@pytest.mark.parametrize(
    "observed",
    [
        seen(power=Power.CRASHED),
        seen(is_up=False),
        replace(seen(), silent=frozenset({ONE.name})),
        replace(seen(), troubled={ONE.name: "no room"}),
        replace(seen(), balancer=replace(seen().balancer, running=False)),
        replace(seen(), balancer=replace(seen().balancer, digest="another")),
        see_world(replace(seen().hosts["local"], answers=False), balancer=seen().balancer),
        see_world(replace(seen().hosts["local"], memory_total=2**20), balancer=seen().balancer),
    ],
)
def test_whatever_is_seen_otherwise_is_planned(observed: Observed, still: Stillness) -> None:
    assert not still.needs_no_plan(recorded(), observed, {})


@pytest.mark.parametrize(
    "desired",
    [
        recorded(sets=(replace(WEB, generation=2),)),
        recorded(members=(replace(ONE, request=Request.RESTART), TWO, SPARE)),
        recorded(members=(ONE, TWO)),
        recorded(hold="the store is old"),
        recorded(departed=frozenset({"web-9"})),
    ],
)
def test_whatever_is_recorded_otherwise_is_planned(desired: Desired, still: Stillness) -> None:
    assert not still.needs_no_plan(desired, seen(), {})


def test_work_under_way_is_planned_around(still: Stillness) -> None:
    assert not still.needs_no_plan(recorded(), seen(), {ONE.name: EffectKind.TELL})


def test_however_still_it_is_it_is_planned_once_in_a_while(still: Stillness, clock: FakeClock) -> None:
    clock.advance(PLANNED_WITHIN - 1)
    assert still.needs_no_plan(recorded(), seen(), {})
    clock.advance(1)
    assert not still.needs_no_plan(recorded(), seen(), {})


@pytest.mark.parametrize(
    "made",
    [
        Plan((), wake_at=NOW + 5),
        Plan((), suspects=frozenset({("local", f"{PREFIX}-web-9")})),
        Plan((Settle("web", 1, "", "set web is as declared"),)),
    ],
)
def test_what_waits_or_is_done_is_not_still(made: Plan, clock: FakeClock) -> None:
    still = Stillness(clock)
    still.remember(recorded(), seen(), {}, made)
    assert not still.needs_no_plan(recorded(), seen(), {})


@pytest.mark.parametrize(
    "desired",
    [
        recorded(sets=(replace(WEB, settled_generation=0),)),
        recorded(sets=(replace(WEB, stuck="no host answers"),)),
        recorded(sets=(replace(WEB, deleting=True),)),
        recorded(sets=(replace(WEB, rollout=RolloutCondition(RolloutLevel.STOPPED, WEB.model)),)),
        recorded(members=(replace(ONE, phase=Phase.DRAINING), TWO, SPARE)),
        recorded(members=(replace(ONE, failures=1), TWO, SPARE)),
        recorded(members=(replace(ONE, unhealthy_since=NOW), TWO, SPARE)),
        recorded(members=(replace(ONE, request=Request.REMOVE), TWO, SPARE)),
        recorded(hold="the store is old"),
    ],
)
def test_what_is_not_at_rest_is_planned_at_every_look(desired: Desired, clock: FakeClock) -> None:
    """Even where the plan was empty: time alone may change that."""
    still = Stillness(clock)
    still.remember(desired, seen(), {}, NOTHING)
    assert not still.needs_no_plan(desired, seen(), {})
