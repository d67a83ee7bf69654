"""How many machines boot at once where guests are emulated: who begins, who waits, and that all are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from orchestrator.models.members import Member, Phase, PoolState, Request, Role, ScaleSet
from orchestrator.models.sightings import BalancerSighting, HostSighting, Power
from orchestrator.models.steps import Effect, EffectKind, NoteWait, Plan
from orchestrator.planner import plan
from orchestrator.planner.boots import LONGEST
from tests.builders import NOW, make_member, make_set, make_spec, see_host, see_machine, see_world, wish
from tests.unit.examples import many, some
from tests.unit.world import World, after_slow_turn, at_rest, record, why_not_converged
from tests.unit.worlds import worlds

WHY = "waits for a CPU of host local: it emulates its guests, and has 2 for those that boot"


def a_set(**fields: Any) -> ScaleSet:
    return make_set(make_spec(**{"instances": 5, "endpoints": [], "setup": {"fork": False}, **fields}))


def new(wanted: ScaleSet, number: int, **fields: Any) -> Member:
    given: dict[str, Any] = {"phase": Phase.CREATING, "phase_since": NOW, "told": None, "entered": False}
    return make_member(wanted, f"{number:05}", **{**given, **fields})


def news(wanted: ScaleSet, *numbers: int, **fields: Any) -> list[Member]:
    return [new(wanted, number, **fields) for number in numbers]


def look(
    *members: Member,
    sets: tuple[ScaleSet, ...] = (),
    seen: tuple[Member, ...] = (),
    busy: dict[str, EffectKind] | None = None,
    **fields: Any,
) -> Plan:
    """At a host with two CPUs that emulates. `seen` are the members whose machines run."""
    host = see_host(*map(see_machine, seen), **{"cpus": 2, "emulates": True, **fields})
    return plan(wish(*(sets or (a_set(),)), members=list(members)), see_world(host), busy or {}, NOW)


def created(made: Plan) -> list[str]:
    return [step.member.name for step in made.steps if isinstance(step, Effect) and is_create(step)]


def is_create(effect: Effect) -> bool:
    return effect.kind is EffectKind.CREATE


def begun(made: Plan, kind: EffectKind) -> list[str]:
    return [step.member.name for step in made.steps if isinstance(step, Effect) and step.kind is kind]


def waits(made: Plan) -> list[NoteWait]:
    return [step for step in made.steps if isinstance(step, NoteWait)]


# ---- who begins ----------------------------------------------------------------------------------------------


def test_no_more_boot_than_the_host_has_cpus_and_the_others_are_told_why() -> None:
    made = look(*news(a_set(), 1, 2, 3, 4, 5))
    assert created(made) == ["web-00001", "web-00002"]
    (told,) = waits(made)
    assert [one.name for one in told.members] == ["web-00003", "web-00004", "web-00005"]
    assert told.why == WHY
    assert told.reason == f"not begun yet, 3 machines of web: {WHY}"


def test_it_is_told_once() -> None:
    made = look(*news(a_set(), 1, 2), *news(a_set(), 3, 4, reason=WHY))
    assert created(made) == ["web-00001", "web-00002"]
    assert waits(made) == []


def test_where_guests_are_not_emulated_the_planner_holds_up_nobody() -> None:
    made = look(*news(a_set(), 1, 2, 3, 4, 5), emulates=False)
    assert len(created(made)) == 5
    assert waits(made) == []


def test_as_long_as_nobody_knows_whether_guests_are_emulated_it_is_as_if_they_were() -> None:
    made = look(*news(a_set(), 1, 2, 3), emulates=None)
    assert len(created(made)) == 2
    assert "nobody knows yet whether it emulates its guests" in waits(made)[0].why


def test_a_guest_takes_as_many_cpus_as_it_has() -> None:
    wanted = a_set(machine={"memory": "128MiB", "vcpus": 2})
    assert created(look(*news(wanted, 1, 2), sets=(wanted,), cpus=3)) == ["web-00001"]
    assert created(look(*news(wanted, 1, 2, 3), sets=(wanted,), cpus=4)) == ["web-00001", "web-00002"]


def test_one_that_has_more_cpus_than_its_host_boots_alone() -> None:
    wanted = a_set(machine={"memory": "128MiB", "vcpus": 4})
    assert created(look(*news(wanted, 1, 2), sets=(wanted,))) == ["web-00001"]
    first = new(wanted, 1, phase=Phase.PROVISIONING)
    assert created(look(first, new(wanted, 2), sets=(wanted,), seen=(first,))) == []


def test_whoever_waits_for_more_cpus_is_not_overtaken() -> None:
    small, large = a_set(), make_set(make_spec(name="db", endpoints=[], machine={"vcpus": 2}))
    first = new(small, 1, phase=Phase.PROVISIONING)
    made = look(first, new(large, 2), new(small, 3), sets=(large, small), seen=(first,))
    assert created(made) == []
    assert {one.set_name for one in waits(made)} == {"db", "web"}


def test_what_boots_already_counts() -> None:
    wanted = a_set()
    first, second, third = news(wanted, 1, 2, 3)
    under_way = look(first, second, third, busy={first.name: EffectKind.CREATE})
    assert created(under_way) == [second.name]
    set_up = replace(first, phase=Phase.PROVISIONING)
    assert created(look(set_up, second, third, seen=(set_up,))) == [second.name]
    busy = {set_up.name: EffectKind.PROVISION}
    assert created(look(set_up, second, third, seen=(set_up,), busy=busy)) == [second.name]


def test_what_runs_before_its_record_says_so_is_gone_on_with_and_counts() -> None:
    """A controller died between the effect and its record."""
    first, second, third = news(a_set(), 1, 2, 3)
    assert created(look(first, second, third, seen=(second,))) == [first.name, second.name]


def test_who_is_ready_or_off_or_gone_does_not_count() -> None:
    wanted = a_set()
    ready = new(wanted, 1, phase=Phase.READY)
    assert len(created(look(ready, *news(wanted, 2, 3), seen=(ready,)))) == 2
    gone = new(wanted, 1, phase=Phase.PROVISIONING)
    assert len(created(look(gone, *news(wanted, 2, 3)))) == 2


def test_forks_are_no_boots() -> None:
    wanted = a_set(setup={})
    made = look(*news(wanted, 1, 2, 3, 4), sets=(wanted,), goldens=frozenset({wanted.model}))
    assert len(begun(made, EffectKind.FORK)) == 4
    fork = new(wanted, 1, phase=Phase.PROVISIONING)
    seen = see_host(replace(see_machine(fork), forked=True), cpus=2, emulates=True)
    desired = wish(wanted, members=[fork, *news(wanted, 2, 3)])
    assert len(created(plan(desired, see_world(seen), {}, NOW))) == 2


def test_each_host_has_its_own_cpus() -> None:
    wanted = a_set()
    near, far = news(wanted, 1, 2, 3), news(wanted, 4, 5, 6, host="far")
    hosts = see_host(cpus=1, emulates=True), see_host(name="far", cpus=2, emulates=True)
    made = plan(wish(wanted, members=[*near, *far]), see_world(*hosts), {}, NOW)
    assert sorted(created(made)) == ["web-00001", "web-00004", "web-00005"]


def test_a_guest_that_hangs_holds_up_the_others_only_for_a_while() -> None:
    wanted = a_set()
    stuck = news(wanted, 1, 2, phase=Phase.PROVISIONING, phase_since=NOW - LONGEST + 1)
    made = look(*stuck, new(wanted, 3), seen=tuple(stuck))
    assert created(made) == []
    assert made.wake_at == NOW + 1
    later = [replace(one, phase_since=NOW - LONGEST) for one in stuck]
    assert created(look(*later, new(wanted, 3), seen=tuple(later))) == ["web-00003"]


# ---- claims and the reserve ----------------------------------------------------------------------------------


def test_a_refill_never_holds_up_an_instance_but_waits_for_all() -> None:
    wanted = a_set(standby={"state": "running", "max_ready": 8})
    refill = news(wanted, 1, 2, role=Role.STANDBY, phase=Phase.PROVISIONING)
    more = new(wanted, 3, role=Role.STANDBY)
    made = look(*refill, more, *news(wanted, 4, 5, 6), seen=tuple(refill), sets=(wanted,))
    assert created(made) == ["web-00004", "web-00005"]
    assert {one.name for note in waits(made) for one in note.members} == {"web-00003", "web-00006"}


def test_the_set_gets_the_cpus_before_its_reserve() -> None:
    wanted = a_set(instances=1, standby={"state": "running", "max_ready": 3})
    made = look(*news(wanted, 1, 2, role=Role.STANDBY), new(wanted, 3), sets=(wanted,))
    assert created(made) == ["web-00003", "web-00001"]


def test_the_floor_of_a_pool_gets_a_cpu_after_the_instances_and_waits_for_no_other_refill() -> None:
    wanted = a_set(instances=2, standby={"state": "running", "max_ready": 6, "min_ready": 1})
    other = make_set(make_spec(name="api", instances=0, endpoints=[], standby={"max_ready": 4}))
    refilling = news(other, 1, 2, role=Role.STANDBY, phase=Phase.PROVISIONING)
    floor, more = news(wanted, 11, 12, role=Role.STANDBY)

    def look_beside(*members: Member) -> Plan:
        return look(*refilling, *members, more, floor, sets=(other, wanted), seen=tuple(refilling))

    assert created(look_beside(new(other, 3, role=Role.STANDBY))) == [floor.name]
    assert created(look_beside(new(wanted, 1))) == ["web-00001", floor.name]
    made = look_beside(*news(wanted, 1, 2))
    assert created(made) == ["web-00001", "web-00002"]
    assert {one.name for note in waits(made) for one in note.members} == {floor.name, more.name}


@pytest.mark.parametrize(
    ("first", "is_floor"),
    [
        ({"phase": Phase.STANDBY}, False),
        ({"phase": Phase.PROVISIONING}, False),
        ({"phase": Phase.FAILED, "failures": 1}, True),
        ({"phase": Phase.STANDBY, "request": Request.REMOVE}, True),
        ({"phase": Phase.STANDBY, "model": "0" * 16}, True),
    ],
)
def test_who_is_nearest_to_being_ready_is_the_floor(first: dict[str, Any], is_floor: bool) -> None:
    wanted = a_set(instances=0, standby={"state": "running", "max_ready": 3, "min_ready": 1})
    other = make_set(make_spec(name="api", instances=0, endpoints=[], standby={"max_ready": 4}))
    refilling = news(other, 1, 2, role=Role.STANDBY, phase=Phase.PROVISIONING)
    there = new(wanted, 1, role=Role.STANDBY, **first)
    seen = (*refilling, *([there] if there.phase is not Phase.FAILED else []))
    made = look(*refilling, there, new(wanted, 2, role=Role.STANDBY), sets=(other, wanted), seen=seen)
    assert created(made) == (["web-00002"] if is_floor else [])


def claimed(wanted: ScaleSet, number: int, state: PoolState) -> Member:
    return new(wanted, number, phase=Phase.STARTING, parked=state)


@pytest.mark.parametrize(("state", "boots"), [("stopped", True), ("hibernated", False), ("running", False)])
def test_a_claim_starts_at_once_and_whoever_boots_for_it_takes_a_cpu(state: str, boots: bool) -> None:
    wanted = a_set()
    booting = news(wanted, 1, 2, phase=Phase.PROVISIONING)
    power = Power(state)
    claims = [claimed(wanted, number, PoolState(state)) for number in (3, 4, 5)]
    for others in (booting, []):
        machines = [*map(see_machine, others), *(see_machine(one, power) for one in claims)]
        world = see_world(see_host(*machines, cpus=2, emulates=True))
        made = plan(wish(wanted, members=[*others, *claims, new(wanted, 6)]), world, {}, NOW)
        kind = EffectKind.AWAIT if power is Power.RUNNING else EffectKind.START
        assert begun(made, kind) == ["web-00003", "web-00004", "web-00005"]
        assert created(made) == ([] if boots or others else ["web-00006"])


def test_an_instance_that_is_restarted_takes_a_cpu_and_one_whose_hook_runs_does_not() -> None:
    wanted = a_set()
    for entered in (True, False):
        starting = news(wanted, 1, 2, phase=Phase.STARTING, entered=entered)
        assert bool(created(look(*starting, new(wanted, 3), seen=tuple(starting)))) is not entered


def pools() -> st.SearchStrategy[list[Phase]]:
    return st.lists(st.sampled_from([Phase.CREATING, Phase.PROVISIONING, Phase.STANDBY]), max_size=6)


# ---- any world -----------------------------------------------------------------------------------------------


def on_hosts(world: World, **fields: Any) -> World:
    return replace(world, hosts={name: replace(host, **fields) for name, host in world.hosts.items()})


def booting(world: World, role: Role | None = None, only: Collection[str] | None = None) -> Counter[str]:
    """Host -> CPUs taken by machines that are made now or set up, as far as they boot and have not been at it for
    too long."""
    taken: Counter[str] = Counter()
    for member in world.members.values():
        if only is not None and member.name not in only:
            continue
        effect = world.busy.get(member.name)
        seen = world.hosts[member.host].machines.get(f"understudy-{member.name}")
        is_made = effect is not None and effect.kind is EffectKind.CREATE
        is_up = seen is not None and seen.power is Power.RUNNING and seen.incarnation == member.incarnation
        runs = is_up and seen is not None and not seen.forked
        sets_up = member.phase is Phase.PROVISIONING and runs and world.now < member.phase_since + LONGEST
        if role in (None, member.role) and (is_made or sets_up or (member.phase is Phase.CREATING and runs)):
            taken[member.host] += world.sets[member.set_name].spec.machine.vcpus
    return taken


@many
@given(worlds(emulates=True, silent=True))
def test_only_creations_are_held_up_and_never_all_of_a_host(world: World) -> None:
    made, free = world.plan(), on_hosts(world, emulates=False).plan()
    ours = [step for step in made.steps if not isinstance(step, NoteWait)]
    theirs = [step for step in free.steps if not isinstance(step, NoteWait)]
    held = [step for step in theirs if isinstance(step, Effect) and step not in ours]
    assert [step for step in theirs if step not in held] == ours
    assert all(is_create(step) for step in held)
    event(f"{min(len(held), 3)} held up")
    for host in {step.member.host for step in held}:
        mine = any(one.host == host and one.name in created(made) for one in world.members.values())
        starts = any(one.host == host and one.phase is Phase.STARTING for one in world.members.values())
        assert mine or starts or booting(world)[host]
    if held:
        assert made.wake_at is not None or made.steps


@some
@given(worlds(emulates=True, deleting=False), st.randoms(use_true_random=False))
def test_at_no_moment_more_boot_than_the_host_has_cpus(start: World, chance: Random) -> None:
    world = start
    for turn in range(60):
        made = world.plan()
        for host, seen in world.hosts.items():
            of_set, of_all = booting(world, Role.INSTANCE)[host], booting(world)[host]
            floors = floor_of(world)
            of_floor = booting(world, only=floors)[host]
            instances, reserve = fresh(world, made, host, Role.INSTANCE), fresh(world, made, host, Role.STANDBY)
            floor = fresh(world, made, host, Role.STANDBY, floors)
            assert not instances or of_set + instances <= seen.cpus
            assert not floor or of_set + instances + of_floor + floor <= seen.cpus
            assert reserve == floor or of_all + instances + reserve <= seen.cpus
        world, made = after_slow_turn(world, slowness(chance, turn < 40))
        if not made.steps and not world.busy and made.wake_at is None:
            break


@many
@given(st.lists(pools(), min_size=2, max_size=2), st.integers(1, 3), st.integers(1, 4))
def test_the_floor_of_a_pool_waits_for_no_refill(phases: list[list[Phase]], floor: int, cpus: int) -> None:
    """Two sets refill their pools at the same time."""
    members, sets = [], []
    for name, pool in zip(("api", "web"), phases, strict=True):
        standby = {"state": "running", "max_ready": 9, "min_ready": floor}
        sets.append(
            make_set(make_spec(name=name, instances=0, endpoints=[], standby=standby, setup={"fork": False}))
        )
        members += [new(sets[-1], number, role=Role.STANDBY, phase=phase) for number, phase in enumerate(pool, 1)]
    seen = [one for one in members if one.phase is not Phase.CREATING]
    world = World(
        {one.name: one for one in sets},
        {one.name: one for one in members},
        {"local": see_host(*map(see_machine, seen), cpus=cpus, emulates=True)},
        BalancerSighting(running=False),
    )
    floors = floor_of(world)
    begun = set(created(world.plan()))
    held = {one.name for one in members if one.phase is Phase.CREATING} & floors - begun
    event(f"{min(len(held), 1)} held, {min(len(begun - floors), 1)} refills begun")
    assert not held or booting(world, only=floors)["local"] + len(begun & floors) >= cpus
    assert not held or not begun - floors


def slowness(chance: Random, is_slow: bool) -> Callable[[], bool]:
    """Three of five effects take longer."""
    return lambda: is_slow and chance.random() < 0.6


def floor_of(world: World) -> set[str]:
    """Of each pool as many as `min_ready` asks for: those that are ready, those on their way, then the oldest."""
    floors: set[str] = set()
    for wanted in world.sets.values():
        pool = [one for one in world.of(wanted.name, Role.STANDBY) if not one.is_leaving]
        pool = [one for one in pool if one.model == wanted.model and one.phase is not Phase.FAILED]
        order = (Phase.STANDBY, Phase.PARKING, Phase.READY, Phase.STARTING, Phase.PROVISIONING, Phase.CREATING)
        begun = {one.name for one in pool if is_begun(world, one)}
        pool.sort(key=lambda one: (order.index(one.phase), one.name not in begun, one.created_at, one.name))
        floors |= {one.name for one in pool[: wanted.standby_floor]}
    return floors


def is_begun(world: World, member: Member) -> bool:
    effect, seen = world.busy.get(member.name), world.hosts[member.host].machines.get(f"understudy-{member.name}")
    if effect is not None and effect.kind is EffectKind.CREATE:
        return True
    return world.power(member) is Power.RUNNING and seen is not None and not seen.forked


def fresh(world: World, made: Plan, host: str, role: Role, only: Collection[str] | None = None) -> int:
    """How many begin to boot, of these if any are named; each has one CPU here."""
    mine = [world.members[name] for name in created(made) if only is None or name in only]
    booted = [one for one in mine if world.power(one) is Power.RUNNING]
    return sum((one.host, one.role) == (host, role) for one in mine if one not in booted)


# ---- from nothing --------------------------------------------------------------------------------------------


def nothing(wanted: ScaleSet, cpus: int) -> World:
    host = HostSighting("local", "a", answers=True, memory_total=2**40, cpus=cpus, emulates=True)
    return World({wanted.name: wanted}, {}, {"local": host}, BalancerSighting(running=False))


@some
@given(
    st.integers(1, 12),
    st.integers(0, 6),
    st.integers(1, 4),
    st.sampled_from([{}, {"fork": False}]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_from_nothing_everything_is_made_with_and_without_forks_and_where_none_can_be(
    instances: int, pool: int, cpus: int, setup: dict[str, Any], has_goldens: bool, chance: Random
) -> None:
    wanted = a_set(instances=instances, setup=setup, standby={"state": "stopped", "max_ready": instances + pool})
    world = replace(nothing(wanted, cpus), no_goldens=frozenset() if has_goldens else frozenset({"local"}))
    most = 0
    for turn in range(300):
        most = max(most, booting(world, Role.INSTANCE)["local"], booting(world)["local"] - cpus)
        world, made = after_slow_turn(world, slowness(chance, turn < 200))
        world = replace(world, now=world.now + 1.0)
        if not made.steps and not world.busy and made.wake_at is None:
            break
    world = at_rest(world, turns=100)
    assert why_not_converged(world, world.sets["web"]) == ""
    assert most <= cpus
    forked = sum(one.forked for one in world.hosts["local"].machines.values())
    event(f"forks: {'some' if forked else 'none'}")
    assert not forked or (has_goldens and not setup)


def test_what_is_told_is_recorded_and_then_not_told_again() -> None:
    wanted = a_set()
    members = {one.name: one for one in news(wanted, 1, 2, 3, 4)}
    world = replace(nothing(wanted, 2), members=members)
    (told,) = waits(world.plan())
    world = record(world, told)
    assert [one.reason for one in world.members.values()].count(WHY) == 2
    assert waits(world.plan()) == []
