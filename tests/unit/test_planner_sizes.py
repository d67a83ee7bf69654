"""How many instances and how large a reserve, by example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.sightings import HostSighting, MachineSighting, Power
from orchestrator.models.steps import Admit, Claim, Effect, EffectKind, Retire, Settle, Step
from orchestrator.planner import plan
from orchestrator.planner.placement import Placement
from orchestrator.planner.sizing import why_not_claimed
from tests.builders import (
    GIB,
    MIB,
    NOW,
    make_member,
    make_members,
    make_set,
    make_spec,
    see_host,
    see_machine,
    see_world,
    wish,
)
from tests.unit.examples import many
from tests.unit.world import World, at_rest, why_not_converged


def pool_of(**fields: Any) -> dict[str, Any]:
    return {"state": "stopped", "max_ready": 4, **fields}


def seen(wanted: ScaleSet, members: list[Member]) -> list[MachineSighting]:
    """The machines that these members should have."""
    parked = Power(wanted.pool_state.value)
    return [
        see_machine(one, parked if one.phase is Phase.STANDBY else Power.RUNNING)
        for one in members
        if one.phase not in (Phase.CREATING, Phase.FAILED)
    ]


def steps_for(wanted: ScaleSet, members: list[Member], *hosts: HostSighting) -> tuple[Step, ...]:
    here = hosts or (see_host(*seen(wanted, members)),)
    return plan(wish(wanted, members=members), see_world(*here), {}, NOW).steps


def spares(wanted: ScaleSet, count: int, first: int = 101, **fields: Any) -> list[Member]:
    return make_members(wanted, count, first, **{"role": Role.STANDBY, "phase": Phase.STANDBY, **fields})


def admitted(steps: tuple[Step, ...], role: Role) -> list[Admit]:
    return [step for step in steps if isinstance(step, Admit) and step.role is role]


def claimed(steps: tuple[Step, ...]) -> list[str]:
    return [step.member.name for step in steps if isinstance(step, Claim)]


def retired(steps: tuple[Step, ...]) -> list[str]:
    return [step.member.name for step in steps if isinstance(step, Retire)]


# ---- B7: the size of the reserve -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_ready", "min_ready", "instances", "target"),
    [
        (20, 0, 10, 10),
        (20, 0, 5, 15),
        (20, 0, 0, 20),
        (20, 0, 20, 0),
        (20, 0, 25, 0),
        (20, 3, 10, 10),
        (20, 3, 18, 3),
        (20, 3, 25, 3),
        (0, 0, 3, 0),
        (4, 4, 1, 4),
    ],
)
def test_the_reserve_is_what_is_left_of_max_ready_and_at_least_min_ready(
    max_ready: int, min_ready: int, instances: int, target: int
) -> None:
    pool = pool_of(max_ready=max_ready, min_ready=min_ready)
    assert make_set(make_spec(instances=instances, standby=pool)).standby_target == target


@many
@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 60))
def test_instances_and_reserve_together_fill_max_ready_unless_the_floor_or_the_set_is_larger(
    max_ready: int, floor: int, instances: int
) -> None:
    pool = pool_of(max_ready=max(max_ready, floor), min_ready=floor)
    target = make_set(make_spec(instances=instances, standby=pool)).standby_target
    assert target >= floor
    if target > floor:
        assert target + instances == max(max_ready, floor)


def test_a_set_without_a_pool_or_on_its_way_out_has_no_reserve() -> None:
    assert make_set(make_spec()).standby_target == 0
    assert make_set(make_spec(standby=pool_of(max_ready=20)), deleting=True).standby_target == 0


def scaled(world: World, instances: int) -> World:
    (wanted,) = world.sets.values()
    spec = wanted.spec.model_copy(update={"instances": instances})
    return replace(world, sets={wanted.name: replace(wanted, spec=spec, generation=wanted.generation + 1)})


def counts(world: World) -> tuple[int, int]:
    return len(world.of("web", Role.INSTANCE)), len(world.of("web", Role.STANDBY))


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_the_reserve_follows_the_set_as_the_mission_says(state: str) -> None:
    spec = make_spec(instances=10, standby=pool_of(max_ready=20, state=state))
    start = World({"web": make_set(spec)}, {}, {"local": see_host()}, see_world().balancer)
    ten = at_rest(start)
    assert counts(ten) == (10, 10)
    five = at_rest(scaled(ten, 5))
    assert counts(five) == (5, 15)
    twelve = at_rest(scaled(five, 12))
    assert counts(twelve) == (12, 8)
    assert why_not_converged(twelve, twelve.sets["web"]) == ""
    # Seven of the fifteen went into the set and eight stayed: nobody was made, nobody was removed.
    assert set(twelve.members) == set(five.members)


# ---- growing -------------------------------------------------------------------------------------------------


def test_growth_claims_the_oldest_ready_members_first_and_makes_the_rest_cold() -> None:
    wanted = make_set(make_spec(instances=5, standby=pool_of(max_ready=5)))
    members = [*make_members(wanted, 2), *spares(wanted, 2)]
    steps = steps_for(wanted, members)
    assert claimed(steps) == ["web-00101", "web-00102"]
    (cold,) = admitted(steps, Role.INSTANCE)
    assert cold.reason == "creating an instance of web cold: the standby pool is exhausted"
    assert cold.event == "claim_cold"
    assert not admitted(steps, Role.STANDBY)


def test_a_claimed_member_is_started_whatever_its_power() -> None:
    for state in ("running", "stopped"):
        wanted = make_set(make_spec(instances=1, standby=pool_of(state=state)))
        (claim,) = (one for one in steps_for(wanted, spares(wanted, 1)) if isinstance(one, Claim))
        assert claim.phase is Phase.STARTING
        assert claim.reason == "claimed web-00101 from the standby pool of web"


@pytest.mark.parametrize(
    ("fields", "power", "why"),
    [
        ({"phase": Phase.PROVISIONING}, Power.RUNNING, "1 provisioning"),
        ({"phase": Phase.PARKING}, Power.RUNNING, "1 parking"),
        ({"phase": Phase.FAILED, "failures": 1}, Power.ABSENT, "1 failed"),
        ({"model": "0" * 16}, Power.STOPPED, "1 of an older model"),
        ({}, Power.RUNNING, "1 running instead of stopped"),
        ({}, Power.CRASHED, "1 crashed instead of stopped"),
        ({}, Power.UNKNOWN, "1 on a host that does not answer"),
    ],
)
def test_a_member_that_is_not_ready_is_passed_over_and_the_cold_start_says_why(
    fields: dict[str, Any], power: Power, why: str
) -> None:
    wanted = make_set(make_spec(instances=1, standby=pool_of()))
    (spare,) = spares(wanted, 1, host="silent" if power is Power.UNKNOWN else "local", **fields)
    machines = [] if power in (Power.ABSENT, Power.UNKNOWN) else [see_machine(spare, power)]
    silent = HostSighting("silent", "a", answers=False)
    steps = steps_for(wanted, [spare], see_host(*machines), silent)
    assert not claimed(steps)
    (cold,) = admitted(steps, Role.INSTANCE)
    assert cold.reason == (f"creating an instance of web cold: no ready member left in the standby pool: {why}")


def test_a_running_pool_hands_out_no_stopped_machine() -> None:
    wanted = make_set(make_spec(instances=1, standby=pool_of(state="running")))
    spare = spares(wanted, 1)
    steps = steps_for(wanted, spare, see_host(see_machine(spare[0], Power.STOPPED)))
    (cold,) = admitted(steps, Role.INSTANCE)
    assert "1 stopped instead of running" in cold.reason


def test_a_member_that_is_leaving_or_under_work_is_not_claimed() -> None:
    wanted = make_set(make_spec(instances=2, standby=pool_of()))
    leaving = spares(wanted, 1, request=Request.REMOVE)
    under_work = spares(wanted, 1, first=102)
    members = leaving + under_work
    observed = see_world(see_host(*seen(wanted, members)))
    made = plan(wish(wanted, members=members), observed, {"web-00102": EffectKind.SHUT_DOWN}, NOW)
    assert not claimed(made.steps)
    assert len(admitted(made.steps, Role.INSTANCE)) == 2


def why(wanted: ScaleSet, pool: list[Member], powers: dict[str, Power] | None = None, claims: int = 0) -> str:
    known = {one.name: Power.STOPPED for one in pool} | (powers or {})
    return why_not_claimed(wanted, pool, known, claims)


def test_every_pool_miss_is_named() -> None:
    bare, pooled = make_set(), make_set(make_spec(standby=pool_of()))
    assert why(bare, []) == "the set has no standby pool"
    assert why(pooled, []) == "the standby pool is empty"
    assert why(pooled, [], claims=2) == "the standby pool is exhausted"


def test_pool_misses_of_several_kinds_are_counted_and_sorted() -> None:
    wanted = make_set(make_spec(standby=pool_of()))
    pool = [
        *spares(wanted, 2, phase=Phase.PROVISIONING),
        *spares(wanted, 1, first=110, phase=Phase.CREATING),
        *spares(wanted, 1, first=120, model="0" * 16),
        *spares(wanted, 1, first=130),
    ]
    assert why(wanted, pool, {"web-00130": Power.RUNNING}) == (
        "no ready member left in the standby pool: "
        "1 creating, 1 of an older model, 2 provisioning, 1 running instead of stopped"
    )


# ---- refill --------------------------------------------------------------------------------------------------


def test_the_reserve_is_filled_once_the_set_is_complete() -> None:
    wanted = make_set(make_spec(instances=2, standby=pool_of(max_ready=5)))
    refills = admitted(steps_for(wanted, make_members(wanted, 2)), Role.STANDBY)
    assert [step.reason for step in refills] == ["filling the standby pool of web to 3"] * 3


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.PROVISIONING, Phase.STARTING])
def test_the_reserve_waits_for_instances_on_their_way(phase: Phase) -> None:
    wanted = make_set(make_spec(instances=1, standby=pool_of()))
    assert not admitted(steps_for(wanted, make_members(wanted, 1, phase=phase)), Role.STANDBY)


@pytest.mark.parametrize("phase", [Phase.READY, Phase.IN_SERVICE, Phase.DRAINING, Phase.FAILED])
def test_the_reserve_does_not_wait_for_instances_that_are_made_or_have_failed(phase: Phase) -> None:
    wanted = make_set(make_spec(instances=1, standby=pool_of()))
    members = make_members(wanted, 1, phase=phase, failures=1, phase_since=NOW)
    assert len(admitted(steps_for(wanted, members), Role.STANDBY)) == 3


def test_members_of_an_older_model_are_replaced() -> None:
    wanted = make_set(make_spec(instances=0, standby=pool_of(max_ready=2)))
    steps = steps_for(wanted, spares(wanted, 2, model="0" * 16))
    assert retired(steps) == ["web-00101", "web-00102"]
    assert len(admitted(steps, Role.STANDBY)) == 2


def test_a_reserve_that_is_too_large_loses_its_least_useful_members_first() -> None:
    wanted = make_set(make_spec(instances=0, standby=pool_of(max_ready=1)))
    members = [
        *spares(wanted, 2),
        *spares(wanted, 1, first=110, phase=Phase.PROVISIONING),
        *spares(wanted, 1, first=120, phase=Phase.FAILED, failures=1),
    ]
    # What has failed, what is not done, then the newest.
    assert retired(steps_for(wanted, members)) == ["web-00120", "web-00110", "web-00102"]


def test_members_of_an_older_model_go_even_if_there_is_no_room_for_new_ones() -> None:
    wanted = make_set(make_spec(instances=0, standby=pool_of(max_ready=2)))
    old = spares(wanted, 2, model="0" * 16)
    steps = steps_for(wanted, old, see_host(*seen(wanted, old), memory_total=256 * MIB))
    assert retired(steps) == ["web-00101", "web-00102"]
    assert not admitted(steps, Role.STANDBY)


def test_a_ready_member_takes_the_place_of_an_instance_that_failed_twice() -> None:
    wanted = make_set(make_spec(instances=2, standby=pool_of()))
    fine, failed = make_member(wanted), make_member(wanted, "00002", phase=Phase.FAILED, phase_since=NOW)
    once = steps_for(wanted, [fine, replace(failed, failures=1), *spares(wanted, 2)])
    assert (claimed(once), retired(once)) == ([], [])
    steps = steps_for(wanted, [fine, replace(failed, failures=2), *spares(wanted, 2)])
    assert (claimed(steps), retired(steps)) == (["web-00101"], ["web-00002"])
    (claim,) = (step for step in steps if isinstance(step, Claim))
    assert claim.reason == "claimed web-00101 in place of web-00002: web-00002 is here"


def test_a_pool_that_was_given_up_is_removed() -> None:
    pooled = make_set(make_spec(instances=0, standby=pool_of()))
    bare = make_set(make_spec(instances=0), model=pooled.model)
    assert len(retired(steps_for(bare, spares(pooled, 3)))) == 3


def test_the_set_is_worked_on_before_its_reserve_and_what_starts_before_what_is_made() -> None:
    wanted = make_set(make_spec(instances=3, standby=pool_of(state="running", max_ready=6)))
    off, fresh = {"phase": Phase.STARTING}, {"phase": Phase.CREATING}
    members = [
        make_member(wanted, "00001", role=Role.STANDBY, **off),
        make_member(wanted, "00002", role=Role.STANDBY, **fresh),
        make_member(wanted, "00003", **fresh),
        make_member(wanted, "00004", phase=Phase.PROVISIONING),
        make_member(wanted, "00005", **off),
    ]
    powers = {"00001": Power.STOPPED, "00004": Power.RUNNING, "00005": Power.STOPPED}
    machines = [see_machine(one, powers[one.name[4:]]) for one in members if one.name[4:] in powers]
    order = [
        step.member.name[-1]
        for step in steps_for(wanted, members, see_host(*machines))
        if isinstance(step, Effect)
    ]
    assert order == ["5", "4", "3", "1", "2"]


# ---- shrinking -----------------------------------------------------------------------------------------------


def shrink(policy: str, members: list[Member], instances: int) -> list[str]:
    wanted = make_set(make_spec(instances=instances, scale_in={"policy": policy}))
    return sorted(retired(steps_for(wanted, members)))


def aged(*zones: str) -> list[Member]:
    """Instances 1, 2 … from the oldest to the newest, in these zones."""
    return [
        make_member(suffix=f"{number:05}", zone=zone, created_at=NOW - 1000 + number)
        for number, zone in enumerate(zones, start=1)
    ]


def test_the_newest_go_first() -> None:
    assert shrink("newest", aged("a", "a", "a", "a"), 2) == ["web-00003", "web-00004"]


def test_the_oldest_go_first() -> None:
    assert shrink("oldest", aged("a", "a", "a", "a"), 2) == ["web-00001", "web-00002"]


def test_balanced_takes_from_the_largest_zone_and_there_the_newest() -> None:
    assert shrink("balanced", aged("a", "a", "a", "b", "b"), 4) == ["web-00003"]
    assert shrink("balanced", aged("a", "b", "b", "b", "a"), 2) == ["web-00003", "web-00004", "web-00005"]


def test_balanced_in_one_zone_takes_the_newest() -> None:
    assert shrink("balanced", aged("a", "a", "a"), 1) == ["web-00002", "web-00003"]


@pytest.mark.parametrize("policy", ["newest", "oldest", "balanced"])
def test_what_does_not_serve_goes_before_what_serves(policy: str) -> None:
    serving = aged("a", "b", "b")
    idle = make_member(suffix="00009", zone="c", phase=Phase.PROVISIONING, created_at=NOW - 999.5)
    failed = make_member(suffix="00008", zone="c", phase=Phase.FAILED, failures=1, created_at=NOW - 999.5)
    assert shrink(policy, [*serving, idle, failed], 3) == ["web-00008", "web-00009"]
    # Even where another zone is larger.
    assert shrink(policy, [*serving, idle], 3) == ["web-00009"]


@many
@given(st.lists(st.sampled_from("abc"), max_size=9), st.integers(0, 9))
def test_balanced_leaves_no_zone_more_than_one_ahead_of_another_it_took_from(
    zones: list[str], instances: int
) -> None:
    members = aged(*zones)
    gone = shrink("balanced", members, instances)
    left = [one.zone for one in members if one.name not in gone]
    assert len(gone) == max(len(members) - instances, 0)
    for zone in {one.zone for one in members if one.name in gone}:
        assert left.count(zone) >= max((left.count(other) for other in "abc"), default=0) - 1


def test_scale_in_says_to_what() -> None:
    wanted = make_set(make_spec(instances=1))
    (step,) = (one for one in steps_for(wanted, make_members(wanted, 2)) if isinstance(one, Retire))
    assert step.reason == "web is scaled in to 1"


def test_a_deleted_set_gives_back_everything_and_then_its_record() -> None:
    wanted = make_set(make_spec(instances=2, standby=pool_of()), deleting=True)
    members = [*make_members(wanted, 2), *spares(wanted, 2)]
    assert sorted(retired(steps_for(wanted, members))) == [one.name for one in members]
    assert [step.reason for step in steps_for(wanted, [])] == ["set web and all its machines are gone"]


# ---- placement -----------------------------------------------------------------------------------------------


def test_machines_of_a_zone_are_spread_over_its_hosts_by_count_then_room_then_name() -> None:
    wanted = make_set(make_spec(instances=5))
    hosts = [see_host(name="b", memory_total=4 * GIB), see_host(name="a"), see_host(name="c")]
    places = [step.host for step in admitted(steps_for(wanted, [], *hosts), Role.INSTANCE)]
    assert places == ["a", "c", "b", "a", "c"]


def test_a_host_is_never_given_more_memory_than_it_has() -> None:
    wanted = make_set(make_spec(instances=9, machine={"memory": "1GiB"}))
    steps = steps_for(wanted, make_members(wanted, 2), see_host(memory_total=4 * GIB + 1023 * MIB))
    assert len(admitted(steps, Role.INSTANCE)) == 2


def test_a_silent_host_is_given_nothing_however_much_room_it_had() -> None:
    wanted = make_set(make_spec(instances=2))
    hosts = [see_host(name="silent", answers=False), see_host(name="small", memory_total=128 * MIB)]
    places = [step.host for step in admitted(steps_for(wanted, [], *hosts), Role.INSTANCE)]
    assert places == ["small"]


def test_a_memory_ratio_allows_more_than_there_is() -> None:
    wanted = make_set(make_spec(instances=9, machine={"memory": "1GiB"}))
    desired = wish(wanted, memory_ratio=1.5)
    steps = plan(desired, see_world(see_host(memory_total=4 * GIB)), {}, NOW).steps
    assert len(admitted(steps, Role.INSTANCE)) == 6


def test_members_of_every_set_take_room() -> None:
    web = make_set(make_spec(instances=4, machine={"memory": "1GiB"}))
    api = make_set(make_spec(name="api", instances=2, endpoints=[], machine={"memory": "1GiB"}))
    members = make_members(api, 2)
    observed = see_world(see_host(*seen(api, members), memory_total=4 * GIB))
    steps = plan(wish(api, web, members=members), observed, {}, NOW).steps
    assert len(admitted(steps, Role.INSTANCE)) == 2


def stuck(wanted: ScaleSet, members: list[Member], *hosts: HostSighting) -> str:
    (step,) = (one for one in steps_for(wanted, members, *hosts) if isinstance(one, Settle))
    return step.stuck


def test_a_set_that_does_not_fit_says_how_much_room_there_is() -> None:
    wanted = make_set(make_spec(instances=3, machine={"memory": "1GiB"}, endpoints=[]))
    members = make_members(wanted, 2)
    host = see_host(*seen(wanted, members), memory_total=2 * GIB + 512 * MIB)
    assert stuck(wanted, members, host) == "no host has 1024 MiB of memory to give (largest room: 512 MiB)"


def test_a_set_without_a_host_that_answers_says_so() -> None:
    wanted = make_set(make_spec(instances=1, endpoints=[]))
    silent = HostSighting("local", "a", answers=False, reason="connection refused")
    assert stuck(wanted, [], silent) == "no host answers; connection refused"


def test_room_is_never_told_as_less_than_nothing() -> None:
    ledger = Placement({"local": see_host(memory_total=0)}, 1.0, committed={"local": 5 * GIB})
    assert ledger.why_full(GIB) == "no host has 1024 MiB of memory to give (largest room: 0 MiB)"


# ---- what is said at the end ---------------------------------------------------------------------------------


def test_a_set_as_declared_is_recorded_once() -> None:
    wanted = make_set(make_spec(endpoints=[], setup={"fork": False}), generation=4, settled_generation=3)
    (step,) = steps_for(wanted, make_members(wanted, 2))
    assert step == Settle("web", 4, "", "set web is as declared")
    settled = replace(wanted, settled_generation=4)
    assert steps_for(settled, make_members(wanted, 2)) == ()


def test_a_set_that_was_stuck_and_is_complete_now_is_recorded_again() -> None:
    spec = make_spec(endpoints=[], setup={"fork": False})
    wanted = make_set(spec, settled_generation=1, stuck="no host answers")
    (step,) = steps_for(wanted, make_members(wanted, 2))
    assert isinstance(step, Settle)
    assert step.stuck == ""


def test_what_a_silent_host_had_is_no_leak() -> None:
    leak = see_machine(make_member(suffix="leak1"))
    silent = see_world(see_host(leak, answers=False))
    assert plan(wish(), silent, {}, NOW).suspects == frozenset()


def test_nothing_is_concluded_while_work_is_under_way_or_soon_due() -> None:
    wanted = make_set()
    members = make_members(wanted, 2, phase=Phase.READY)
    assert not [step for step in steps_for(wanted, members) if isinstance(step, Settle)]


def test_an_instance_on_a_silent_host_does_not_hold_up_the_reserve_on_the_others() -> None:
    wanted = make_set(make_spec(instances=1, standby={"max_ready": 3}))
    lost = make_member(wanted, phase=Phase.STARTING, host="silent")
    hosts = see_world(HostSighting("silent", "a", answers=False), see_host(name="fine"))
    steps = plan(wish(wanted, members=[lost]), hosts, {}, NOW).steps
    assert sum(isinstance(step, Admit) for step in steps) == 2


def test_below_the_floor_a_replacement_starts_at_once() -> None:
    wanted = make_set(make_spec(instances=2, standby={"max_ready": 4, "min_ready": 1}))
    members = [
        make_member(wanted, "00001", phase=Phase.STARTING),
        make_member(wanted, "00002", phase=Phase.PROVISIONING),
    ]
    steps = plan(wish(wanted, members=members), see_world(see_host(*map(see_machine, members))), {}, NOW).steps
    assert [step.role for step in steps if isinstance(step, Admit)] == [Role.STANDBY]
