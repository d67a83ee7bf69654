"""A changed model, by example: who is replaced when, and when the rollout stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.models.members import (
    Member,
    Phase,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.sightings import BalancerSighting, MachineSighting, Power, Rotation, ServerSighting
from orchestrator.models.steps import Admit, Claim, NoteRollout, Renew, Retire, Settle, Step
from orchestrator.planner import plan
from orchestrator.planner.rollout import (
    Rollout,
    RolloutState,
    SetView,
    bounds_of,
    plan_rollout,
    view_set,
)
from tests.builders import (
    MIB,
    NOW,
    PREFIX,
    make_member,
    make_members,
    make_set,
    make_spec,
    see_balancer,
    see_host,
    see_machine,
    see_server,
    see_world,
    wish,
)
from tests.unit.world import World, at_rest, why_not_converged

OLD = "0" * 16


def rolling(instances: int = 2, level: RolloutLevel = RolloutLevel.ON, **fields: Any) -> ScaleSet:
    """A set whose rollout was told already."""
    made = make_set(make_spec(**{"instances": instances, "endpoints": [], **fields}), settled_generation=1)
    return replace(made, rollout=RolloutCondition(level, made.model))


def old(wanted: ScaleSet, count: int, first: int = 1, **fields: Any) -> list[Member]:
    return make_members(wanted, count, first, **{"model": OLD, **fields})


def new(wanted: ScaleSet, number: int, **fields: Any) -> Member:
    return make_member(wanted, f"{number:05}", **fields)


def spare(wanted: ScaleSet, number: int, **fields: Any) -> Member:
    return new(wanted, number, **{"role": Role.STANDBY, "phase": Phase.STANDBY, **fields})


def machines(members: list[Member], **powers: Power) -> list[MachineSighting]:
    seen = []
    for one in members:
        power = Power.STOPPED if one.phase in (Phase.STANDBY, Phase.STOPPED) else Power.RUNNING
        if one.phase not in (Phase.CREATING, Phase.FAILED):
            seen.append(see_machine(one, powers.get(one.name[4:], power)))
    return seen


def steps_for(wanted: ScaleSet, members: list[Member], **powers: Power) -> tuple[Step, ...]:
    observed = see_world(see_host(*machines(members, **powers)))
    return plan(wish(wanted, members=members), observed, {}, NOW).steps


def leaving(steps: tuple[Step, ...]) -> list[str]:
    return sorted(step.member.name[4:] for step in steps if isinstance(step, Retire))


def coming(steps: tuple[Step, ...]) -> list[str]:
    """Reasons of the instances that are made or claimed."""
    grown = [step for step in steps if isinstance(step, Claim) or (isinstance(step, Admit) and step.event)]
    return [step.reason for step in grown]


def view(wanted: ScaleSet, members: list[Member], has_room: bool = True, **powers: Power) -> SetView:
    observed = see_world(see_host(*machines(members, **powers)))
    return view_set(wanted, members, (PREFIX, observed), has_room, NOW)


def state(wanted: ScaleSet, *members: Member, has_room: bool = True) -> RolloutState:
    return plan_rollout(view(wanted, list(members), has_room), in_place=False).state


# ---- bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "instances", "bounds"),
    [
        ({}, 4, (1, 0)),
        ({"max_surge": 3, "max_unavailable": 2}, 4, (3, 2)),
        ({"max_surge": "25%", "max_unavailable": "25%"}, 10, (3, 2)),
        ({"max_surge": "1%"}, 2, (1, 0)),
        ({"max_surge": 0, "max_unavailable": "50%"}, 3, (0, 1)),
        ({"max_surge": 0, "max_unavailable": "25%"}, 3, (0, 1)),  # a set that was made smaller since
    ],
)
def test_percentages_are_of_the_declared_instances_surge_up_unavailable_down(
    update: dict[str, Any], instances: int, bounds: tuple[int, int]
) -> None:
    assert bounds_of(make_set(make_spec(instances=instances, update=update))) == bounds


# ---- who is replaced when ------------------------------------------------------------------------------------


def test_by_default_one_more_is_made_and_nobody_leaves_before_it_serves() -> None:
    wanted = rolling(2)
    before = old(wanted, 2)
    steps = steps_for(wanted, before)
    assert leaving(steps) == []
    (reason,) = coming(steps)
    assert reason == (
        "creating an instance of web cold: the set has no standby pool, replacing web-00002 of an older model"
    )
    for phase in (Phase.CREATING, Phase.PROVISIONING, Phase.READY, Phase.STARTING, Phase.FAILED):
        steps = steps_for(wanted, [*before, new(wanted, 3, phase=phase, phase_since=NOW, failures=1)])
        assert (leaving(steps), coming(steps)) == ([], [])


def test_once_the_new_one_serves_an_old_one_leaves_and_says_why() -> None:
    wanted = rolling(2)
    steps = steps_for(wanted, [*old(wanted, 2), new(wanted, 3)])
    assert (leaving(steps), coming(steps)) == (["00002"], [])
    assert "replacing web-00002 of an older model" in [step.reason for step in steps]


def test_an_old_one_that_leaves_makes_room_for_the_next_new_one() -> None:
    wanted = rolling(2)
    first, second = old(wanted, 2)
    going = replace(second, request=Request.REMOVE, phase=Phase.DRAINING)
    steps = steps_for(wanted, [first, going, new(wanted, 3)])
    assert (leaving(steps), len(coming(steps))) == ([], 1)
    assert "replacing web-00001" in coming(steps)[0]


def test_without_surge_an_old_one_leaves_first_and_then_a_new_one_comes() -> None:
    wanted = rolling(3, update={"max_surge": 0, "max_unavailable": 1})
    before = old(wanted, 3)
    steps = steps_for(wanted, before)
    assert (leaving(steps), coming(steps)) == (["00003"], [])
    going = [*before[:2], replace(before[2], request=Request.REMOVE, phase=Phase.DELETING)]
    steps = steps_for(wanted, going)
    assert (leaving(steps), len(coming(steps))) == ([], 1)
    assert "replacing web-00003 of an older model" in coming(steps)[0]


def test_as_many_at_a_time_as_surge_and_unavailable_say() -> None:
    wanted = rolling(5, update={"max_surge": 2, "max_unavailable": 1})
    before = old(wanted, 5)
    assert leaving(steps_for(wanted, before)) == ["00005"]
    steps = steps_for(wanted, before[:4])
    assert len(coming(steps)) == 1  # the size comes first
    made = [new(wanted, number, phase=Phase.PROVISIONING) for number in (6, 7, 8)]
    assert leaving(steps_for(wanted, [*before[:4], *made])) == []


def test_what_does_not_serve_goes_first() -> None:
    wanted = rolling(3)
    members = [*old(wanted, 3), new(wanted, 4)]
    members[0] = replace(members[0], phase=Phase.STARTING)
    assert leaving(steps_for(wanted, members)) == ["00001"]


@pytest.mark.parametrize(("policy", "first"), [("newest", "00003"), ("oldest", "00001"), ("balanced", "00002")])
def test_of_those_that_serve_the_scale_in_policy_chooses(policy: str, first: str) -> None:
    wanted = rolling(3, scale_in={"policy": policy})
    zones = ("a", "a", "b")
    members = [replace(one, zone=zone) for one, zone in zip(old(wanted, 3), zones, strict=True)]
    assert leaving(steps_for(wanted, [*members, new(wanted, 4)])) == [first]


def test_what_starts_over_by_itself_or_was_stopped_is_left() -> None:
    wanted = rolling(4)
    members = [
        *old(wanted, 1, 1, phase=Phase.PROVISIONING),
        *old(wanted, 1, 2, phase=Phase.FAILED, failures=1, phase_since=NOW),
        *old(wanted, 1, 3, phase=Phase.STOPPED),
        *old(wanted, 1, 4, request=Request.REIMAGE),
    ]
    steps = steps_for(wanted, members)
    assert (leaving(steps), coming(steps)) == ([], [])


def test_an_instance_that_the_operator_stopped_is_not_missed() -> None:
    wanted = rolling(2)
    stopped, serving = old(wanted, 1, phase=Phase.STOPPED)[0], old(wanted, 1, first=2)[0]
    steps = steps_for(wanted, [stopped, serving, new(wanted, 3)])
    assert leaving(steps) == ["00002"]


def test_an_instance_on_a_silent_host_is_neither_replaced_nor_counted_as_serving() -> None:
    wanted = rolling(2)
    members = [replace(old(wanted, 1)[0], host="gone"), old(wanted, 1, first=2)[0], new(wanted, 3)]
    steps = steps_for(wanted, members)
    assert leaving(steps) == []


def test_a_new_instance_that_the_balancer_finds_down_replaces_nobody() -> None:
    wanted = rolling(1, endpoints=[{"name": "http", "listen": 8080, "port": 80}])
    members = [*old(wanted, 1), new(wanted, 2, phase_since=NOW)]
    seen = {"web-00001": see_server(), "web-00002": see_server(is_up=False)}

    def look(balancer: BalancerSighting, now: float) -> Rollout:
        observed = see_world(see_host(*machines(members)), balancer=balancer)
        return plan_rollout(view_set(wanted, members, (PREFIX, observed), True, now), in_place=False)

    soon = look(see_balancer(wanted, seen), NOW + 1)
    assert soon.turnover.leave == ()
    assert soon.waiting is not None
    assert not soon.waiting.is_stuck
    late = look(see_balancer(wanted, seen), NOW + 60)
    assert late.waiting is not None
    assert late.waiting.is_stuck
    assert "does not find web-00002 up" in late.waiting.waiting
    up = look(see_balancer(wanted, {**seen, "web-00002": see_server(Rotation.READY)}), NOW + 1)
    assert [step.member.name for step in up.turnover.leave] == ["web-00001"]


def test_what_the_balancer_has_not_taken_in_yet_is_neither_counted_as_serving_nor_first_to_go() -> None:
    endpoints = [{"name": "http", "listen": 8080, "port": 80}]
    wanted = rolling(2, endpoints=endpoints, update={"max_surge": 0, "max_unavailable": 1})
    members = old(wanted, 2)
    host = see_host(*machines(members, **{"00001": Power.STOPPED}))

    def leave(servers: dict[str, ServerSighting]) -> list[str]:
        observed = see_world(host, balancer=see_balancer(wanted, servers))
        rollout = plan_rollout(view_set(wanted, members, (PREFIX, observed), True, NOW), in_place=False)
        return [step.member.name for step in rollout.turnover.leave]

    assert leave({}) == []
    assert leave({"web-00002": see_server()}) == ["web-00001"]


def test_an_old_instance_that_the_balancer_finds_down_goes_first() -> None:
    wanted = rolling(2, endpoints=[{"name": "http", "listen": 8080, "port": 80}])
    members = [*old(wanted, 2), new(wanted, 3)]
    seen = {one.name: see_server(is_up=one.name != "web-00001") for one in members}
    observed = see_world(see_host(*machines(members)), balancer=see_balancer(wanted, seen))
    rollout = plan_rollout(view_set(wanted, members, (PREFIX, observed), True, NOW), in_place=False)
    assert [step.member.name for step in rollout.turnover.leave] == ["web-00001"]


def test_scaled_in_during_a_rollout_the_old_ones_go_first() -> None:
    wanted = rolling(1)
    members = [*old(wanted, 2), new(wanted, 3), new(wanted, 4)]
    assert leaving(steps_for(wanted, members)) == ["00001", "00002"]


def test_a_rollout_that_cannot_begin_does_not_keep_a_set_from_shrinking() -> None:
    """Its pool fails, or is being renewed: nothing of the new model is there to take anybody's place."""
    wanted = rolling(3, standby=POOL)
    before = old(wanted, 4)
    broken = failed(wanted, 101, 2, role=Role.STANDBY)
    making = spare(wanted, 101, phase=Phase.PROVISIONING)
    for reserve, stage in ((broken, RolloutState.STOPPED), (making, RolloutState.POOL)):
        assert state(wanted, *before, reserve) is stage
        assert leaving(steps_for(wanted, [*before, reserve])) == ["00004"]


def test_shrinking_leaves_what_is_to_take_the_place_of_an_old_one() -> None:
    wanted = rolling(2, standby=POOL)
    claimed = new(wanted, 3, phase=Phase.STARTING)
    refill = spare(wanted, 101)
    assert state(wanted, *old(wanted, 2), claimed, refill) is RolloutState.POOL
    assert leaving(steps_for(wanted, [*old(wanted, 2), claimed, refill])) == []
    again = failed(wanted, 3, 2)
    assert leaving(steps_for(wanted, [*old(wanted, 2), again])) == []


def test_what_failed_of_another_model_leaves_when_another_has_come_for_it() -> None:
    wanted = rolling(2)
    members = [*old(wanted, 1), *old(wanted, 1, first=2, phase=Phase.FAILED, failures=1, phase_since=NOW)]
    assert leaving(steps_for(wanted, members)) == []
    assert leaving(steps_for(wanted, [*members, new(wanted, 3, phase=Phase.CREATING)])) == ["00002"]


def test_machines_of_the_older_model_keep_the_memory_they_were_made_with() -> None:
    """Half as much is declared now; not a byte is free before one of them has gone."""
    wanted = rolling(2, machine={"memory": "128MiB"})
    members = [replace(one, memory=256 * MIB) for one in old(wanted, 2)]
    made = {}
    for room in (512, 640):
        host = see_host(*machines(members), memory_total=room * MIB)
        made[room] = plan(wish(wanted, members=members), see_world(host), {}, NOW).steps
    (waits,) = made[512]
    assert isinstance(waits, Settle)
    assert waits.stuck == "no host has 128 MiB of memory to give (largest room: 0 MiB)"
    assert len(coming(made[640])) == 1


def test_without_room_the_rollout_waits_and_says_for_what() -> None:
    wanted = rolling(2)
    members = old(wanted, 2)
    host = see_host(*machines(members), memory_total=300 * MIB)
    (step,) = plan(wish(wanted, members=members), see_world(host), {}, NOW).steps
    assert isinstance(step, Settle)
    assert step.stuck == "no host has 128 MiB of memory to give (largest room: 44 MiB)"


# ---- the pool first ------------------------------------------------------------------------------------------


POOL = {"max_ready": 4, "state": "stopped"}


def test_the_pool_is_renewed_before_any_instance_is_replaced() -> None:
    wanted = rolling(2, standby=POOL)
    before = old(wanted, 2)
    stale = spare(wanted, 101, model=OLD)
    assert state(wanted, *before, stale, spare(wanted, 102)) is RolloutState.POOL
    assert state(wanted, *before, spare(wanted, 102)) is RolloutState.POOL  # not full yet
    making = spare(wanted, 101, phase=Phase.PROVISIONING)
    assert state(wanted, *before, making, spare(wanted, 102)) is RolloutState.POOL
    assert state(wanted, *before, spare(wanted, 101), spare(wanted, 102)) is RolloutState.ROLLING


def test_a_new_instance_comes_from_the_renewed_pool() -> None:
    wanted = rolling(2, standby=POOL)
    steps = steps_for(wanted, [*old(wanted, 2), spare(wanted, 101), spare(wanted, 102)])
    assert coming(steps) == [
        "claimed web-00101 from the standby pool of web, replacing web-00002 of an older model"
    ]


def test_once_an_instance_of_the_new_model_serves_a_refill_holds_up_nothing() -> None:
    wanted = rolling(2, standby=POOL)
    refill = spare(wanted, 102, phase=Phase.CREATING)
    assert state(wanted, *old(wanted, 1), new(wanted, 3), refill) is RolloutState.ROLLING


def test_a_pool_for_which_there_is_no_room_holds_up_nothing() -> None:
    wanted = rolling(2, standby=POOL)
    assert state(wanted, *old(wanted, 2), spare(wanted, 101), has_room=False) is RolloutState.ROLLING
    assert state(wanted, *old(wanted, 2), has_room=False) is RolloutState.ROLLING


def test_a_pool_member_that_failed_beside_one_that_is_ready_holds_up_nothing() -> None:
    wanted = rolling(2, standby=POOL)
    failed = spare(wanted, 101, phase=Phase.FAILED, failures=3)
    assert state(wanted, *old(wanted, 2), failed, spare(wanted, 102)) is RolloutState.ROLLING


# ---- in place ------------------------------------------------------------------------------------------------


def renewed(wanted: ScaleSet, members: list[Member]) -> list[str]:
    rollout = plan_rollout(view(wanted, members), in_place=True)
    assert (rollout.turnover.surge, rollout.turnover.spare) == (0, 0)
    return [step.member.name[4:] for step in rollout.turnover.leave if isinstance(step, Renew)]


def test_instances_that_keep_their_names_are_renewed_one_at_a_time() -> None:
    wanted = rolling(3)
    members = old(wanted, 3)
    assert renewed(wanted, members) == ["00003"]
    asked = [*members[:2], replace(members[2], request=Request.REIMAGE)]
    assert renewed(wanted, asked) == []
    assert renewed(wanted, [*members[:2], new(wanted, 3, phase=Phase.PROVISIONING)]) == []
    assert renewed(wanted, [*members[:2], new(wanted, 3)]) == ["00002"]


def test_instances_that_keep_their_names_are_renewed_as_many_at_a_time_as_may_be_unavailable() -> None:
    wanted = rolling(4, update={"max_surge": 2, "max_unavailable": 2})
    members = old(wanted, 4)
    assert renewed(wanted, members) == ["00004", "00003"]
    members[0] = replace(members[0], phase=Phase.STARTING)
    assert renewed(wanted, members) == ["00001", "00004"]


# ---- a new model that fails ----------------------------------------------------------------------------------


def failed(wanted: ScaleSet, number: int, failures: int, **fields: Any) -> Member:
    return new(
        wanted,
        number,
        **{
            "phase": Phase.FAILED,
            "failures": failures,
            "phase_since": NOW,
            "reason": "setting up web: no such file\nconsole of web: x",
            **fields,
        },
    )


def test_one_failure_is_no_verdict_and_is_waited_for() -> None:
    wanted = rolling(2)
    made = plan(
        wish(wanted, members=[*old(wanted, 2), failed(wanted, 3, 1)]),
        see_world(see_host(*machines(old(wanted, 2)))),
        {},
        NOW,
    )
    assert made.steps == ()
    assert made.wake_at == NOW + 30


def test_two_failures_stop_the_rollout_with_the_first_line_and_how_to_go_back() -> None:
    wanted = rolling(2)
    members = [*old(wanted, 2), failed(wanted, 3, 2)]
    (note,) = steps_for(wanted, members)
    assert isinstance(note, NoteRollout)
    assert note.condition.level is RolloutLevel.STOPPED
    words = "the rollout of web, image micro:1, is stopped: web-00003 failed: setting up web: no such file"
    assert note.events == (("rollout_stopped", words),)
    told = replace(wanted, rollout=note.condition)
    (settle,) = steps_for(told, members)
    assert isinstance(settle, Settle)
    assert settle.stuck.startswith(
        "the rollout of web is stopped, as web-00003 failed 2 times; to go back, apply the file of before; "
        "web-00003 failed: setting up web: no such file\nconsole of web"
    )


@pytest.mark.parametrize(("image", "is_told"), [("micro", True), ("micro:1", False)])
def test_going_back_to_an_older_image_needs_its_version(image: str, is_told: bool) -> None:
    wanted = rolling(2, RolloutLevel.STOPPED, image=image)
    members = [*old(wanted, 2, image_digest="d0" * 32), failed(wanted, 3, 2)]
    (settle,) = steps_for(wanted, members)
    assert isinstance(settle, Settle)
    words = "apply the file of before with the version of its image (not 'image: micro')"
    assert (words in settle.stuck) is is_told


def test_while_what_failed_is_tried_again_the_rollout_stays_stopped() -> None:
    wanted = rolling(3)
    again = failed(wanted, 9, 2, phase=Phase.PROVISIONING)
    steps = steps_for(wanted, [*old(wanted, 2), new(wanted, 4), again])
    assert (leaving(steps), coming(steps)) == ([], [])
    rollout = plan_rollout(view(wanted, [*old(wanted, 3), again]), in_place=False)
    assert (rollout.state, rollout.reason) == (
        RolloutState.STOPPED,
        "web-00009 failed 2 times and is tried again",
    )


def test_a_pool_member_that_failed_twice_stops_it_only_while_nothing_of_the_new_model_was_ready() -> None:
    wanted = rolling(2, standby=POOL)
    broken = failed(wanted, 101, 2, role=Role.STANDBY)
    making = spare(wanted, 102, phase=Phase.CREATING)
    assert state(wanted, *old(wanted, 2), broken, making) is RolloutState.STOPPED
    assert state(wanted, *old(wanted, 2), broken, spare(wanted, 102)) is RolloutState.ROLLING


def test_failures_of_the_older_model_stop_nothing() -> None:
    wanted = rolling(2)
    members = [*old(wanted, 2), *old(wanted, 1, first=3, phase=Phase.STARTING, failures=5)]
    assert state(wanted, *members) is RolloutState.ROLLING


def test_a_first_creation_that_fails_is_no_rollout() -> None:
    wanted = rolling(1, level=RolloutLevel.NONE)
    assert state(wanted, failed(wanted, 1, 3)) is RolloutState.NONE


def test_the_pool_replaces_nothing_that_fails_during_a_rollout() -> None:
    wanted = rolling(2, standby=POOL)
    steps = steps_for(wanted, [*old(wanted, 2), failed(wanted, 3, 2), spare(wanted, 101), spare(wanted, 102)])
    assert (leaving(steps), coming(steps)) == ([], [])


def test_going_back_takes_away_what_is_half_made_and_keeps_the_rest() -> None:
    wanted = rolling(2, level=RolloutLevel.STOPPED)
    wanted = replace(wanted, rollout=RolloutCondition(RolloutLevel.STOPPED, OLD))
    members = [*make_members(wanted, 2), *old(wanted, 1, first=3, phase=Phase.FAILED, failures=2)]
    steps = steps_for(wanted, members)
    assert (leaving(steps), coming(steps)) == (["00003"], [])


def undone(instances: int, **fields: Any) -> ScaleSet:
    """A set that goes back to the model of before, with a pool: the rollout of the other one had not ended."""
    made = rolling(instances, standby={"max_ready": instances + 2, "state": "stopped"}, **fields)
    return replace(made, rollout=RolloutCondition(RolloutLevel.ON, OLD))


def test_going_back_waits_for_no_pool() -> None:
    wanted = undone(4)
    pool = [spare(wanted, number, model=OLD) for number in (101, 102)]
    half = [*make_members(wanted, 2), *old(wanted, 2, first=3)]
    assert state(wanted, *half, *pool) is RolloutState.ROLLING
    steps = steps_for(wanted, [*half, *pool])
    assert leaving(steps) == ["00101", "00102"]
    assert coming(steps) == [
        "creating an instance of web cold: no ready member left in the standby pool: 2 of an older model, "
        "replacing web-00004 of an older model"
    ]
    (note,) = (step for step in steps if isinstance(step, NoteRollout))
    assert note.condition == RolloutCondition(RolloutLevel.BACK, wanted.model)
    told = replace(wanted, rollout=note.condition)
    assert state(told, *half, new(wanted, 5), *pool) is RolloutState.ROLLING
    assert "00004" in leaving(steps_for(told, [*half, new(wanted, 5), *pool]))


def test_another_model_is_no_way_back_and_a_rollout_that_ended_is_not_undone() -> None:
    pool = [spare(undone(4), number, model=OLD) for number in (101, 102)]
    assert state(undone(4), *old(undone(4), 4), *pool) is RolloutState.POOL
    ended = replace(undone(4), rollout=RolloutCondition())
    assert state(ended, *make_members(ended, 2), *old(ended, 2, first=3), *pool) is RolloutState.POOL
    again = replace(undone(4), rollout=RolloutCondition(RolloutLevel.BACK, OLD))
    assert state(again, *make_members(again, 2), *old(again, 2, first=3), *pool) is RolloutState.POOL


@pytest.mark.parametrize(
    "half_made",
    [{"phase": Phase.FAILED, "failures": 2}, {"phase": Phase.STARTING}, {"phase": Phase.READY}],
    ids=["failed", "starting", "ready"],
)
def test_going_back_what_the_surge_had_not_finished_goes_at_once(half_made: dict[str, Any]) -> None:
    wanted = undone(4)
    half = [*make_members(wanted, 2), *old(wanted, 2, first=3)]
    (begun,) = old(wanted, 1, first=5, **{"phase_since": NOW, **half_made})
    assert leaving(steps_for(wanted, [*half, begun])) == ["00005"]


# ---- what is told --------------------------------------------------------------------------------------------


def told(wanted: ScaleSet, *members: Member) -> list[tuple[str, str]]:
    return [
        event
        for step in steps_for(wanted, list(members))
        if isinstance(step, NoteRollout)
        for event in step.events
    ]


def test_a_rollout_is_told_when_it_begins_and_when_it_is_done() -> None:
    wanted = rolling(2, level=RolloutLevel.NONE, standby={"max_ready": 3})
    before = [*old(wanted, 2), spare(wanted, 101, model=OLD)]
    assert told(replace(wanted, rollout=RolloutCondition()), *before) == [
        (
            "rollout_started",
            "rolling out a new model to web, image micro:1: 2 in the set and 1 in reserve are of an older one; "
            "at most 3 instances, at least 2 in service",
        )
    ]
    begun = replace(wanted, rollout=RolloutCondition(RolloutLevel.ON, wanted.model))
    assert told(begun, *before) == []
    after = [*make_members(wanted, 2), spare(wanted, 101)]
    assert told(begun, *after, *old(wanted, 1, first=9, request=Request.REMOVE)) == []
    assert told(begun, *after) == [("rollout_done", "2 instances of web are of the new model, image micro:1")]


@pytest.mark.parametrize(
    ("update", "rule"),
    [
        (
            {},
            "1 at a time and out of service meanwhile, though max_unavailable allows none: at least 2 in service",
        ),
        (
            {"max_unavailable": "20%"},
            "1 at a time and out of service meanwhile, though max_unavailable allows none: at least 2 in service",
        ),
        ({"max_unavailable": 2}, "2 at a time and out of service meanwhile: at least 1 in service"),
    ],
)
def test_that_a_set_with_drives_serves_with_fewer_meanwhile_is_told_before(
    update: dict[str, Any], rule: str
) -> None:
    drives = [{"name": "data", "size": "16MiB", "mount": "/data"}]
    wanted = replace(rolling(3, drives=drives, update=update), rollout=RolloutCondition())
    ((kind, words),) = told(wanted, *old(wanted, 3))
    assert kind == "rollout_started"
    assert words.endswith(f"; instances keep their names and drives, so machines are replaced in place, {rule}")


def test_another_model_on_the_way_is_told_as_a_rollout_of_its_own() -> None:
    wanted = replace(rolling(2), rollout=RolloutCondition(RolloutLevel.STOPPED, OLD))
    ((kind, _words),) = told(wanted, *old(wanted, 2))
    assert kind == "rollout_started"


def test_going_back_is_told_when_it_is_done() -> None:
    wanted = replace(rolling(2), rollout=RolloutCondition(RolloutLevel.STOPPED, OLD))
    assert told(wanted, *make_members(wanted, 2)) == [
        ("rollout_done", "2 instances of web are of the model of before, image micro:1")
    ]


def test_that_a_set_goes_back_is_told_when_it_begins_and_when_it_is_done() -> None:
    wanted = replace(rolling(2), rollout=RolloutCondition(RolloutLevel.ON, OLD))
    half = [new(wanted, 1), *old(wanted, 1, first=2)]
    assert told(wanted, *half) == [
        (
            "rollout_back",
            "web goes back to the model of before, image micro:1: 1 in the set and 0 in reserve are of the other "
            "one; at most 3 instances, at least 2 in service",
        )
    ]
    begun = replace(wanted, rollout=RolloutCondition(RolloutLevel.BACK, wanted.model))
    assert told(begun, *half) == []
    assert told(begun, *make_members(wanted, 2)) == [
        ("rollout_done", "2 instances of web are of the model of before, image micro:1")
    ]


def test_a_rollout_that_had_stopped_and_goes_on_is_told() -> None:
    wanted = rolling(2, level=RolloutLevel.STOPPED)
    ((kind, _words),) = told(wanted, *old(wanted, 1), new(wanted, 2))
    assert kind == "rollout_resumed"


def test_a_set_whose_instances_keep_their_names_is_renewed_in_place_to_the_end() -> None:
    spec = make_spec(instances=3, endpoints=[], drives=[{"name": "data", "size": "16MiB", "mount": "/data"}])
    wanted = make_set(spec)
    members = old(wanted, 3)
    host = see_host(*machines(members))
    start = World(
        {"web": wanted}, {one.name: one for one in members}, {"local": host}, BalancerSighting(running=False)
    )
    away = []

    def witness(world: World, _step: Step) -> None:
        away.append(sum(one.phase is not Phase.IN_SERVICE for one in world.of("web")))

    end = at_rest(start, witness=witness)
    assert why_not_converged(end, end.sets["web"]) == ""
    assert {(one.name, one.incarnation) for one in end.of("web")} == {(one.name, 2) for one in members}
    assert max(away) == 1
