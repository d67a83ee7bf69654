"""Zones: instances and pool spread evenly, growth from the pool of its own zone (row B8)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from orchestrator.models.members import Member, Phase, PoolCondition, PoolLevel, Request, Role, ScaleSet
from orchestrator.models.sightings import HostSighting, Power
from orchestrator.models.steps import Admit, Claim, Effect, EffectKind, NotePool, Plan, Retire, Settle, Step
from orchestrator.planner import plan
from orchestrator.planner.spreading import even_shares
from tests.builders import GIB, MIB, NOW, make_member, make_set, make_spec, see_host, see_machine, see_world, wish
from tests.unit.examples import many
from tests.unit.world import World, after_turn, at_rest, why_not_converged

MEMORY = 128 * MIB


def zoned(instances: int = 2, pool: int | None = None, **fields: Any) -> ScaleSet:
    """A set with a stopped pool of `pool` members, whatever its size."""
    standby = {"max_ready": pool, "min_ready": pool} if pool is not None else None
    return make_set(make_spec(instances=instances, standby=standby, endpoints=[], **fields))


def put(wanted: ScaleSet, role: Role, zones: str, first: int = 1, **fields: Any) -> list[Member]:
    """Members in these zones (a letter each), on the host of the zone's name, from the oldest to the newest."""
    phase = Phase.IN_SERVICE if role is Role.INSTANCE else Phase.STANDBY
    return [
        make_member(
            wanted,
            f"{number:05}",
            **{
                "role": role,
                "phase": phase,
                "zone": zone,
                "host": zone,
                "created_at": NOW - 9000 + number,
                **fields,
            },
        )
        for number, zone in enumerate(zones, start=first)
    ]


def instances(wanted: ScaleSet, zones: str, **fields: Any) -> list[Member]:
    return put(wanted, Role.INSTANCE, zones, **fields)


def spares(wanted: ScaleSet, zones: str, **fields: Any) -> list[Member]:
    return put(wanted, Role.STANDBY, zones, first=101, **fields)


def hosts(members: list[Member], zones: str = "ab", silent: str = "", full: str = "") -> dict[str, HostSighting]:
    """A host for each zone with the machines of the members on it."""
    seen = {}
    for zone in zones:
        here = [one for one in members if one.host == zone and one.phase not in (Phase.CREATING, Phase.FAILED)]
        machines = [
            see_machine(one, Power.STOPPED if one.phase is Phase.STANDBY else Power.RUNNING) for one in here
        ]
        memory = MEMORY * len([one for one in members if one.host == zone]) if zone in full else 64 * GIB
        seen[zone] = see_host(*machines, name=zone, zone=zone, memory_total=memory)
        if zone in silent:
            seen[zone] = HostSighting(zone, zone, answers=False, reason="connection refused")
    return seen


def steps_for(wanted: ScaleSet, members: list[Member], **world: Any) -> tuple[Step, ...]:
    seen = see_world(*hosts(members, **world).values())
    return plan(wish(wanted, members=members), seen, {}, NOW).steps


def admitted(steps: tuple[Step, ...], role: Role = Role.INSTANCE) -> str:
    """The zones of what is made, in order."""
    return "".join(step.zone for step in steps if isinstance(step, Admit) and step.role is role)


def claimed(steps: tuple[Step, ...]) -> str:
    return "".join(step.member.zone for step in steps if isinstance(step, Claim))


def retired(steps: tuple[Step, ...]) -> list[str]:
    return [step.member.name[-3:] for step in steps if isinstance(step, Retire)]


def reasons(steps: tuple[Step, ...], kind: type[Claim] | type[Admit]) -> list[str]:
    return [step.reason for step in steps if isinstance(step, kind)]


# ---- growing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "wanted", "made"),
    [
        ("", 1, "a"),
        ("", 2, "ab"),
        ("", 5, "abcab"),
        ("a", 3, "bc"),
        ("aab", 6, "cbc"),
        ("aaa", 5, "bc"),
        ("ccc", 4, "a"),
        ("abc", 4, "a"),
    ],
)
def test_growth_evens_out_the_zones_in_their_order(present: str, wanted: int, made: str) -> None:
    declared = zoned(wanted)
    assert admitted(steps_for(declared, instances(declared, present), zones="abc")) == made


def test_ties_go_by_the_declared_order() -> None:
    wanted = zoned(3, zones=["c", "a", "b"])
    assert admitted(steps_for(wanted, [], zones="abc")) == "cab"


def test_growth_uses_declared_zones_only() -> None:
    wanted = zoned(4, zones=["b", "c"])
    assert admitted(steps_for(wanted, [], zones="abc")) == "bcbc"


@pytest.mark.parametrize(
    ("present", "pool", "wanted", "from_pool", "cold"),
    [
        ("ab", "ab", 3, "a", ""),
        ("aab", "ab", 4, "b", ""),
        ("ab", "ab", 4, "ab", ""),
        ("ab", "bb", 3, "", "a"),
        ("ab", "bb", 4, "b", "a"),
        ("ab", "bb", 6, "bb", "aa"),
        ("aab", "aa", 4, "", "b"),
        ("aab", "bbb", 5, "b", "a"),
        ("", "ba", 2, "ab", ""),
    ],
)
def test_growth_in_a_zone_takes_from_the_pool_of_that_zone(
    present: str, pool: str, wanted: int, from_pool: str, cold: str
) -> None:
    declared = zoned(wanted, pool=0)
    steps = steps_for(declared, [*instances(declared, present), *spares(declared, pool)])
    assert (claimed(steps), admitted(steps)) == (from_pool, cold)


def test_a_claim_names_its_zone() -> None:
    wanted = zoned(3, pool=1)
    steps = steps_for(wanted, [*instances(wanted, "ab"), *spares(wanted, "a")])
    assert reasons(steps, Claim) == ["claimed web-00101 from the standby pool of web in zone a"]


@pytest.mark.parametrize(
    ("pool", "phase", "wanted", "why"),
    [
        ("bb", Phase.STANDBY, 3, "the standby pool is empty in zone a"),
        ("a", Phase.STANDBY, 5, "the standby pool is exhausted in zone a"),
        ("aab", Phase.PROVISIONING, 3, "no ready member left in the standby pool in zone a: 2 provisioning"),
    ],
)
def test_a_cold_start_says_why_the_pool_of_its_zone_had_none(
    pool: str, phase: Phase, wanted: int, why: str
) -> None:
    declared = zoned(wanted, pool=3)
    steps = steps_for(declared, [*instances(declared, "ab"), *spares(declared, pool, phase=phase)])
    cold = [step.reason for step in steps if isinstance(step, Admit) and step.role is Role.INSTANCE]
    assert [reason for reason in cold if "in zone a cold" in reason] == [
        f"creating an instance of web in zone a cold: {why}"
    ]


def test_a_zone_that_does_not_answer_is_passed_over_and_that_is_said() -> None:
    wanted = zoned(3)
    steps = steps_for(wanted, instances(wanted, "ab"), silent="a")
    assert reasons(steps, Admit) == [
        "creating an instance of web in zone b cold: the set has no standby pool"
        "; zone a is passed over: no host answers; connection refused"
    ]


def test_a_zone_without_room_is_passed_over_for_the_pool_of_the_next() -> None:
    wanted = zoned(3, pool=0)
    steps = steps_for(wanted, [*instances(wanted, "ab"), *spares(wanted, "b")], full="a")
    assert reasons(steps, Claim) == [
        "claimed web-00101 from the standby pool of web in zone b"
        "; zone a is passed over: no host has 128 MiB of memory to give (largest room: 0 MiB)"
    ]


def test_a_zone_without_room_still_gives_its_ready_members() -> None:
    wanted = zoned(3, pool=0)
    steps = steps_for(wanted, [*instances(wanted, "ab"), *spares(wanted, "a")], full="ab")
    assert (claimed(steps), admitted(steps)) == ("a", "")


def test_a_declared_zone_whose_hosts_are_gone_is_passed_over() -> None:
    wanted = zoned(1, zones=["z", "a"])
    (reason,) = reasons(steps_for(wanted, []), Admit)
    assert reason.endswith("; zone z is passed over: no host of it is configured")


def test_without_room_anywhere_growth_waits_zone_by_zone_and_the_pool_still_shrinks() -> None:
    wanted = make_set(make_spec(instances=4, standby={"max_ready": 4}, endpoints=[]))
    present = instances(wanted, "ab")
    making = spares(wanted, "bb", phase=Phase.CREATING)
    steps = steps_for(wanted, [*present, *making], full="ab")
    assert (claimed(steps), admitted(steps)) == ("", "")
    assert retired(steps) == ["102", "101"]
    (told,) = (step for step in steps_for(wanted, present, full="ab") if isinstance(step, Settle))
    full = "no host has 128 MiB of memory to give (largest room: 0 MiB)"
    assert told.stuck == f"zone a: {full}; zone b: {full}"


def test_one_zone_is_not_spoken_of() -> None:
    wanted = zoned(1, pool=1)
    assert reasons(steps_for(wanted, [], zones="a"), Admit) == [
        "creating an instance of web cold: the standby pool is empty",
        "filling the standby pool of web to 1",
    ]


def test_members_of_a_zone_that_was_renamed_belong_to_their_hosts_zone() -> None:
    wanted = zoned(3, pool=0)
    members = [*instances(wanted, "ab", zone="old"), *spares(wanted, "a", zone="old")]
    assert [step.member.name for step in steps_for(wanted, members) if isinstance(step, Claim)] == ["web-00101"]


def test_memory_goes_to_a_set_that_waits_before_the_pool_of_another() -> None:
    api = make_set(make_spec(name="api", instances=0, standby={"max_ready": 2}, endpoints=[]))
    web = zoned(2)
    host = see_host(memory_total=3 * MEMORY)
    steps = plan(wish(api, web), see_world(host), {}, NOW).steps
    made = [(step.set_name, step.role) for step in steps if isinstance(step, Admit)]
    assert made == [("web", Role.INSTANCE), ("web", Role.INSTANCE), ("api", Role.STANDBY)]


def test_growth_of_any_set_comes_before_the_floor_of_another() -> None:
    api = make_set(make_spec(name="api", instances=1, standby={"max_ready": 3, "min_ready": 3}, endpoints=[]))
    steps = plan(wish(api, zoned(2)), see_world(see_host(memory_total=3 * MEMORY)), {}, NOW).steps
    made = [(step.set_name, step.role) for step in steps if isinstance(step, Admit)]
    assert made == [("api", Role.INSTANCE), ("web", Role.INSTANCE), ("web", Role.INSTANCE)]


def larger(name: str = "big", instances: int = 1, **fields: Any) -> ScaleSet:
    """Its instances are as large as two of `zoned`."""
    memory = {"memory": "256MiB"}
    return make_set(make_spec(name=name, instances=instances, machine=memory, endpoints=[], **fields))


def refills(pool: ScaleSet, waiting: ScaleSet, *seen: HostSighting, members: list[Member] | None = None) -> Plan:
    return plan(wish(waiting, pool, members=members or []), see_world(*seen), {}, NOW)


def test_what_is_too_small_for_a_waiting_instance_is_kept_for_it_and_not_given_to_a_refill() -> None:
    """Bit by bit its room comes together."""
    pool = zoned(0, pool=4)
    for count, made in ((3, []), (2, [("big", Role.INSTANCE)])):
        members = spares(pool, "a" * count)
        seen = replace(hosts(members, "a")["a"], memory_total=4 * MEMORY)
        planned = refills(pool, larger(), seen, members=members)
        assert [(one.set_name, one.role) for one in planned.steps if isinstance(one, Admit)] == made


def test_a_host_that_could_never_hold_it_keeps_nothing() -> None:
    planned = refills(zoned(0, pool=4), larger(), see_host(name="a", memory_total=3 * MEMORY // 2))
    assert admitted(planned.steps, Role.STANDBY) == "a"


def test_a_refill_that_finds_no_room_says_for_whom_it_is_kept() -> None:
    pool = replace(zoned(0, pool=4), pool=PoolCondition(PoolLevel.FILLING))
    members = spares(pool, "aaa")
    seen = replace(hosts(members, "a")["a"], memory_total=4 * MEMORY)
    planned = refills(pool, larger(), seen, members=members)
    kept = "beside what is kept for instances of big that wait"
    assert {one.set_name: one.stuck for one in planned.steps if isinstance(one, Settle)} == {
        "big": "no host has 256 MiB of memory to give (largest room: 128 MiB)",
        "web": f"no host has 128 MiB of memory to give (largest room: 0 MiB, {kept})",
    }


def test_room_is_kept_where_the_most_is_and_in_the_zones_of_who_waits() -> None:
    pool = zoned(0, pool=6)
    members = spares(pool, "ab")
    totals = {"a": 2 * MEMORY, "b": 5 * MEMORY // 2, "c": 3 * MEMORY}
    seen = [replace(one, memory_total=totals[name]) for name, one in hosts(members, "abc").items()]
    for zones, made in ((["a", "b"], "accc"), (["a"], "bccc")):
        planned = refills(pool, larger(zones=zones), *seen, members=members)
        assert sorted(admitted(planned.steps, Role.STANDBY)) == sorted(made)


def test_what_a_rollout_makes_beforehand_comes_before_a_refill_too() -> None:
    rolled = larger(instances=1, zones=["a"])
    old = make_member(rolled, model="0" * 16, host="a", zone="a")
    pool = zoned(0, pool=2)
    seen = replace(hosts([old], "a")["a"], memory_total=3 * MEMORY)
    planned = refills(pool, rolled, seen, members=[old])
    assert admitted(planned.steps, Role.STANDBY) == ""
    seen = replace(seen, memory_total=4 * MEMORY)
    made = [one for one in refills(pool, rolled, seen, members=[old]).steps if isinstance(one, Admit)]
    assert [(one.set_name, one.role) for one in made] == [("big", Role.INSTANCE)]


# ---- the pool ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "pool", "target", "made"),
    [
        ("ab", "", 2, "ab"),
        ("ab", "a", 3, "ba"),
        ("ab", "aa", 4, "bb"),
        ("aab", "", 1, "b"),  # where the next instance goes
        ("aab", "b", 2, "a"),
        ("", "", 3, "aba"),
    ],
)
def test_the_pool_is_filled_where_it_is_furthest_below_an_even_share(
    present: str, pool: str, target: int, made: str
) -> None:
    wanted = zoned(len(present), pool=target)
    steps = steps_for(wanted, [*instances(wanted, present), *spares(wanted, pool)])
    assert admitted(steps, Role.STANDBY) == made
    assert reasons(steps, Admit)[0] == f"filling the standby pool of web to {target} in zone {made[0]}"


@pytest.mark.parametrize(
    ("pool", "target", "gone"),
    [
        ("aabb", 2, ["104", "102"]),
        ("aaab", 2, ["103", "102"]),
        ("abbb", 3, ["104"]),
        ("aaabc", 3, ["103", "102"]),
    ],
)
def test_a_pool_that_shrinks_stays_even(pool: str, target: int, gone: list[str]) -> None:
    wanted = zoned(0, pool=target)
    assert retired(steps_for(wanted, spares(wanted, pool), zones="abc")) == gone


def test_of_equally_full_zones_the_least_useful_member_goes() -> None:
    wanted = zoned(0, pool=1)
    failed = spares(wanted, "a", phase=Phase.FAILED, failures=1)
    members = [*failed, *put(wanted, Role.STANDBY, "b", first=102)]
    assert retired(steps_for(wanted, members)) == ["101"]


def test_what_is_of_an_older_model_goes_wherever_it_is() -> None:
    wanted = zoned(0, pool=2)
    members = [*spares(wanted, "aa", model="0" * 16), *put(wanted, Role.STANDBY, "a", first=201)]
    steps = steps_for(wanted, members)
    assert (retired(steps), admitted(steps, Role.STANDBY)) == (["101", "102"], "b")


# ---- zones that are not declared any more --------------------------------------------------------------------


def test_instances_of_a_zone_not_declared_any_more_stay() -> None:
    wanted = zoned(3, pool=1, zones=["a"])
    assert not retired(steps_for(wanted, [*instances(wanted, "abb"), *spares(wanted, "a")]))


@pytest.mark.parametrize(("full", "made"), [("", "aa"), ("a", "")])
def test_members_of_its_pool_go_and_others_are_made_where_they_can_be_claimed(full: str, made: str) -> None:
    wanted = replace(zoned(1, pool=2, zones=["a"]), pool=PoolCondition(PoolLevel.FULL))
    steps = steps_for(wanted, [*instances(wanted, "a"), *spares(wanted, "bb")], full=full)
    assert (retired(steps), admitted(steps, Role.STANDBY)) == (["101", "102"], made)
    assert {step.reason for step in steps if isinstance(step, Retire)} == {"its zone b is not declared any more"}
    (told,) = (step for step in steps if isinstance(step, NotePool))
    assert told.condition.level is PoolLevel.EXHAUSTED


def test_a_member_on_a_silent_host_of_such_a_zone_stays_and_counts() -> None:
    wanted = zoned(1, pool=2, zones=["a"])
    steps = steps_for(wanted, [*instances(wanted, "a"), *spares(wanted, "ab")], silent="b")
    assert (retired(steps), admitted(steps, Role.STANDBY)) == ([], "")


def test_a_member_whose_host_came_into_a_declared_zone_is_one_of_that_zone() -> None:
    wanted = zoned(2, pool=1, zones=["a"])
    members = [*instances(wanted, "a"), *spares(wanted, "b")]
    seen = hosts(members)
    moved = see_world(seen["a"], replace(seen["b"], zone="a"))
    steps = plan(wish(wanted, members=members), moved, {}, NOW).steps
    assert ([step.member.name for step in steps if isinstance(step, Claim)], retired(steps)) == (["web-00101"], [])


@pytest.mark.parametrize("policy", ["balanced", "newest", "oldest"])
def test_scale_in_takes_them_first(policy: str) -> None:
    wanted = zoned(3, zones=["a"], scale_in={"policy": policy})
    steps = steps_for(wanted, instances(wanted, "aabaa"))
    assert retired(steps) == ["003", {"oldest": "001"}.get(policy, "005")]


def test_a_pool_that_shrinks_loses_them_first() -> None:
    wanted = zoned(0, pool=2, zones=["a"])
    assert retired(steps_for(wanted, spares(wanted, "baa"))) == ["101"]


def test_nobody_is_claimed_out_of_them() -> None:
    wanted = zoned(2, pool=1, zones=["a"])
    steps = steps_for(wanted, [*instances(wanted, "a"), *spares(wanted, "b")])
    assert (claimed(steps), admitted(steps)) == ("", "a")
    why = "no ready member left in the standby pool in zone a: 1 in zone b, which is not declared any more"
    assert reasons(steps, Admit)[0] == f"creating an instance of web in zone a cold: {why}"


# ---- a member in place of one that failed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "pool", "pairs"),
    [
        ("a", "ba", {"001": "102"}),
        ("a", "b", {"001": "101"}),
        ("ab", "b", {"002": "101"}),
        ("ab", "bb", {"001": "102", "002": "101"}),
        ("ab", "ba", {"001": "102", "002": "101"}),
    ],
)
def test_a_failed_instance_is_replaced_from_its_own_zone_first(
    failed: str, pool: str, pairs: dict[str, str]
) -> None:
    wanted = zoned(len(failed), pool=len(pool))
    broken = instances(wanted, failed, phase=Phase.FAILED, failures=2, phase_since=NOW)
    steps = steps_for(wanted, [*broken, *spares(wanted, pool)])
    claims = [step.reason.split() for step in steps if isinstance(step, Claim)]
    assert {words[5].rstrip(":")[-3:]: words[1][-3:] for words in claims} == pairs


# ---- what holds in every world -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "present", "shares"),
    [
        (5, {"a": 1, "b": 2, "c": 2}, {"a": 1, "b": 2, "c": 2}),
        (4, {}, {"a": 2, "b": 1, "c": 1}),
        (0, {"a": 3}, {"a": 0, "b": 0, "c": 0}),
    ],
)
def test_even_shares(total: int, present: dict[str, int], shares: dict[str, int]) -> None:
    assert even_shares(("a", "b", "c"), total, present) == shares


@st.composite
def spread_worlds(draw: st.DrawFn, zones: str = "abc", memory: int = 64 * GIB) -> World:
    """Healthy members anywhere, in a set that declares some of the zones."""
    declared = draw(st.sampled_from([None, ["a", "b"], ["c", "a"], ["b"]]))
    policy = draw(st.sampled_from(["balanced", "newest", "oldest"]))
    wanted = zoned(draw(st.integers(0, 8)), draw(st.integers(0, 5)), zones=declared, scale_in={"policy": policy})
    members = [
        *instances(wanted, draw(st.text(zones, max_size=6))),
        *spares(wanted, draw(st.text(zones, max_size=5))),
    ]
    seen = hosts(members, zones)
    for name, host in seen.items():
        seen[name] = replace(host, memory_total=memory)
    return World({"web": wanted}, {one.name: one for one in members}, seen, see_world().balancer)


def zones_in(world: World, role: Role) -> Counter[str]:
    return Counter(one.zone for one in world.of("web", role) if not one.is_leaving)


def declared_zones(world: World) -> tuple[str, ...]:
    return world.sets["web"].spec.zones or tuple(world.hosts)


@many
@given(spread_worlds())
def test_growth_fills_the_emptiest_zones_and_leaves_none_behind(start: World) -> None:
    """Where all zones have room, no zone that was grown is more than one ahead of another."""
    made = start.plan().steps
    for role in Role:
        counts = zones_in(start, role)
        counts.subtract(one.member.zone for one in made if isinstance(one, Claim) and role is Role.STANDBY)
        counts.update(one.member.zone for one in made if isinstance(one, Claim) and role is Role.INSTANCE)
        counts.subtract(one.member.zone for one in made if isinstance(one, Retire) and one.member.role is role)
        new = Counter(one.zone for one in made if isinstance(one, Admit) and one.role is role)
        if role is Role.INSTANCE:
            new.update(one.member.zone for one in made if isinstance(one, Claim))
            counts.subtract(one.member.zone for one in made if isinstance(one, Claim))
        after = counts + new
        for zone in new:
            assert zone in declared_zones(start)
            assert after[zone] <= min(after[other] for other in declared_zones(start)) + 1


@many
@given(spread_worlds())
def test_nobody_is_made_in_a_zone_that_has_a_ready_member_nor_claimed_for_another(start: World) -> None:
    made = start.plan().steps
    claims = Counter(one.member.zone for one in made if isinstance(one, Claim))
    cold = {one.zone for one in made if isinstance(one, Admit) and one.role is Role.INSTANCE}
    ready = zones_in(start, Role.STANDBY)
    for zone in cold:
        assert claims[zone] == ready[zone]


@many
@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 6))
def test_instances_and_pool_of_all_zones_stay_even_through_any_resize(first: int, then: int, pool: int) -> None:
    wanted = zoned(first, pool=pool)
    start = World({"web": wanted}, {}, hosts([], "abc"), see_world().balancer)
    end = at_rest(start)
    resized = replace(wanted, spec=wanted.spec.model_copy(update={"instances": then}), generation=2)
    for world in (end, at_rest(replace(end, sets={"web": resized}))):
        assert why_not_converged(world, world.sets["web"]) == ""
        for role in Role:
            counts = [zones_in(world, role)[zone] for zone in "abc"]
            assert max(counts) - min(counts) <= 1


@many
@given(spread_worlds())
def test_in_the_end_the_whole_pool_can_be_claimed(start: World) -> None:
    end = at_rest(start)
    assert why_not_converged(end, end.sets["web"]) == ""
    assert set(zones_in(end, Role.STANDBY)) <= set(declared_zones(end))


@many
@given(spread_worlds(memory=4 * MEMORY))
def test_no_host_is_ever_overcommitted(start: World) -> None:
    before = Counter(one.host for one in start.members.values())

    def witness(world: World, step: Step) -> None:
        if isinstance(step, Admit):
            booked = sum(one.host == step.host for one in world.members.values())
            assert booked < max(4, before[step.host])

    at_rest(start, witness=witness)


@st.composite
def crowded_worlds(draw: st.DrawFn) -> World:
    """A pool that is to be filled, a set whose instances are twice as large, and hosts with a little room."""
    pool = zoned(0, pool=draw(st.integers(1, 6)))
    count = draw(st.integers(1, 4))
    waiting = larger(instances=count, zones=draw(st.sampled_from([None, ["a"], ["c", "b"]])))
    there = instances(waiting, draw(st.text("abc", max_size=count)))
    members = [*spares(pool, draw(st.text("abc", max_size=5))), *there]
    seen = hosts(members, "abc")
    for name, host in seen.items():
        booked = sum(one.memory for one in members if one.host == name)
        seen[name] = replace(host, memory_total=booked + draw(st.integers(0, 3)) * MEMORY)
    sets = {"web": pool, "big": waiting}
    return World(sets, {one.name: one for one in members}, seen, see_world().balancer)


@many
@given(crowded_worlds(), st.randoms(use_true_random=False))
def test_no_refill_takes_what_an_instance_waits_for(start: World, chance: Random) -> None:
    """While members of the pool are removed: of the hosts that could hold the instance, one gets no refill."""
    world = start
    for _ in range(20):
        made = world.plan().steps
        refilled = {step.host for step in made if isinstance(step, Admit) and step.role is Role.STANDBY}
        waiting = world.sets["big"]
        begun = sum(isinstance(step, Admit) and step.set_name == "big" for step in made)
        waits = len(world.of("big")) + begun < waiting.spec.instances
        declared = waiting.spec.zones or tuple(world.hosts)
        able = {zone for zone in declared if world.hosts[zone].memory_total >= 2 * MEMORY}
        event(f"{'somebody waits' if waits else 'nobody waits'}, {min(len(refilled), 1)} filled")
        assert not waits or not able or able - refilled
        world, _made = after_turn(world)
        pool = sorted(one.name for one in world.of("web") if not one.is_leaving)
        if pool and chance.random() < 0.5:
            name = chance.choice(pool)
            asked = replace(world.members[name], request=Request.REMOVE)
            world = replace(world, members={**world.members, name: asked})


@many
@given(spread_worlds(), st.sampled_from("abc"))
def test_nothing_is_destroyed_on_a_host_that_does_not_answer(start: World, silent: str) -> None:
    quiet = HostSighting(silent, silent, answers=False, reason="connection refused")
    world = replace(start, hosts={**start.hosts, silent: quiet})

    def witness(_world: World, step: Step) -> None:
        if isinstance(step, Effect):
            assert step.member.host != silent
            assert step.kind is not EffectKind.DESTROY or step.member.is_leaving
        if isinstance(step, Admit):
            assert step.host != silent

    end = at_rest(world, witness=witness)
    assert {one for one in start.members.values() if one.host == silent and one.name not in end.members} == set()
