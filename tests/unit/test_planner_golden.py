"""Of whom golden images are taken, when they go, and who becomes a fork."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, given

from orchestrator.models.golden import GoldenTrouble
from orchestrator.models.members import GuestPhase, Member, Phase, PoolState, Request, Role, ScaleSet
from orchestrator.models.sightings import HostSighting, Observed, Power, Rotation
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.steps import (
    Claim,
    Effect,
    EffectKind,
    ForgetSet,
    Interrupt,
    NoteWait,
    Plan,
    RemoveGolden,
    Step,
)
from orchestrator.models.storage import Drive
from orchestrator.planner import Desired, plan
from orchestrator.planner.golden import EARLY_PAUSE, GIVES_UP_AFTER, PATIENCE, may_have_golden, plan_without_fork
from tests.builders import (
    NOW,
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
from tests.unit.examples import many, some
from tests.unit.world import World, at_rest, with_goldens
from tests.unit.worlds import worlds

POOL = {"state": "running", "max_ready": 4}


def a_set(**fields: Any) -> ScaleSet:
    return make_set(make_spec(**{"instances": 1, "endpoints": [], **fields}))


def member_of(wanted: ScaleSet, suffix: str = "00001", **fields: Any) -> Member:
    return make_member(wanted, suffix, **fields)


def spare(wanted: ScaleSet, suffix: str, **fields: Any) -> Member:
    given = {"role": Role.STANDBY, "phase": Phase.STANDBY, "parked": PoolState.RUNNING}
    return make_member(wanted, suffix, **{**given, **fields})


def host_of(*members: Member, goldens: tuple[str, ...] = (), **fields: Any) -> HostSighting:
    return see_host(*(see_machine(one) for one in members), goldens=frozenset(goldens), **fields)


def planned(desired: Desired, observed: Observed, busy: dict[str, EffectKind] | None = None) -> Plan:
    return plan(desired, observed, busy or {}, NOW)


def takes(made: Plan) -> list[str]:
    return [one.member.name for one in made.steps if isinstance(one, Effect) and is_take(one)]


def is_take(effect: Effect) -> bool:
    return effect.kind is EffectKind.TAKE_GOLDEN


def kinds(made: Plan) -> list[EffectKind]:
    return [one.kind for one in made.steps if isinstance(one, Effect)]


def look(wanted: ScaleSet, *members: Member, goldens: tuple[str, ...] = (), **fields: Any) -> Plan:
    """At one host with these members, all of which run."""
    return planned(wish(wanted, members=list(members)), see_world(host_of(*members, goldens=goldens)), **fields)


# ---- taking --------------------------------------------------------------------------------------------------


def test_one_is_taken_of_an_instance_in_service_once() -> None:
    wanted = a_set()
    one = member_of(wanted)
    made = look(wanted, one)
    assert takes(made) == [one.name]
    assert f"taking a golden image of model {wanted.model} from {one.name}" in [step.reason for step in made.steps]
    assert takes(look(wanted, one, goldens=(wanted.model,))) == []


def test_the_reserve_comes_first_because_it_has_served_nobody() -> None:
    wanted = a_set(standby=POOL)
    members = [member_of(wanted), *(spare(wanted, f"0000{number}") for number in (2, 3, 4))]
    assert takes(look(wanted, *members)) == ["web-00002"]


def test_one_at_a_time_on_each_host() -> None:
    first, second = a_set(), make_set(make_spec(name="db", instances=1, endpoints=[], machine={"vcpus": 2}))
    members = [member_of(first), member_of(second, host="local")]
    desired = wish(second, first, members=members)
    world = see_world(host_of(*members))
    assert len(takes(planned(desired, world))) == 1
    assert takes(planned(desired, world, {members[0].name: EffectKind.TAKE_GOLDEN})) == []


def test_each_host_has_its_own() -> None:
    wanted = a_set(instances=2)
    members = [member_of(wanted), member_of(wanted, "00002", host="far")]
    world = see_world(host_of(members[0]), host_of(members[1], name="far"))
    assert takes(planned(wish(wanted, members=members), world)) == ["web-00002", "web-00001"]


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": Phase.READY},
        {"phase": Phase.STARTING},
        {"told": None},
        {"request": Request.RESTART},
        {"failures": 1},
        {"unhealthy_since": NOW},
        {"model": "0123456789abcdef"},
        {"drives": (Drive("web", "data", 1, "local", 2**20, "web-00001", NOW),)},
    ],
)
def test_whoever_is_not_at_rest_or_not_like_the_others_is_left_alone(fields: dict[str, Any]) -> None:
    wanted = a_set()
    assert takes(look(wanted, member_of(wanted, **fields))) == []


@pytest.mark.parametrize(
    "seen", [{"power": Power.STOPPED}, {"rebooted": True}, {"halted": True}, {"forked": True}]
)
def test_a_machine_that_does_not_just_run_is_left_alone(seen: dict[str, Any]) -> None:
    wanted = a_set()
    one = member_of(wanted)
    world = see_world(see_host(replace(see_machine(one), **seen)))
    assert takes(planned(wish(wanted, members=[one]), world)) == []


def test_none_is_taken_of_an_instance_whose_services_do_not_answer() -> None:
    wanted = make_set(make_spec(instances=1))
    one = member_of(wanted)
    for is_up in (True, False):
        balancer = see_balancer(wanted, {one.name: see_server(Rotation.READY, is_up=is_up)})
        made = planned(wish(wanted, members=[one]), see_world(host_of(one), balancer=balancer))
        assert bool(takes(made)) is is_up


def test_none_is_taken_of_an_instance_that_on_claim_has_changed() -> None:
    wanted = a_set(hooks={"on_claim": ["join"]}, standby=POOL)
    instance, reserve = member_of(wanted), spare(wanted, "00002")
    assert takes(look(wanted, instance)) == []
    assert takes(look(wanted, instance, reserve)) == [reserve.name]


@pytest.mark.parametrize("state", ["hibernated", "stopped"])
def test_who_is_about_to_be_parked_is_parked_after_it(state: str) -> None:
    wanted = a_set(standby={"state": state, "max_ready": 2}, hooks={"on_claim": ["join"]})
    one = spare(wanted, "00002", phase=Phase.PARKING, parked=PoolState(state), told=GuestPhase.STANDBY)
    made = look(wanted, member_of(wanted), one)
    assert takes(made) == [one.name]
    assert not {EffectKind.HIBERNATE, EffectKind.SHUT_DOWN} & set(kinds(made))
    after = look(wanted, member_of(wanted), one, goldens=(wanted.model,))
    assert {EffectKind.HIBERNATE, EffectKind.SHUT_DOWN} & set(kinds(after))


def test_a_silent_host_is_not_asked_for_one() -> None:
    wanted = a_set()
    one = member_of(wanted)
    silent = HostSighting("local", "a", answers=False, reason="gone")
    made = planned(wish(wanted, members=[one]), see_world(silent))
    assert takes(made) == []
    assert not [step for step in made.steps if isinstance(step, RemoveGolden)]


@pytest.mark.parametrize(
    ("setup", "may"),
    [
        ({}, True),
        ({"fork": True}, True),
        ({"fork": False}, False),
        ({"keep_seed": True}, False),
        ({"answer_file": "none"}, False),
        ({"user_data": "#!/bin/sh\necho {{ instance.name }}\n"}, False),
        ({"user_data": {"runcmd": ["echo {% if instance %}"]}}, False),
        ({"user_data": {"runcmd": ["echo an instance of {{ set.name }}"]}}, False),
        ({"user_data": {"runcmd": ["echo {{ set.name }}"]}}, True),
        ({"user_data": "#!/bin/sh\necho instance\n"}, True),
        ({"user_data": "#!/bin/sh\necho {{ instance.name }}\n", "fork": True}, True),
    ],
)
def test_what_may_be_forked(setup: dict[str, Any], may: bool) -> None:
    assert may_have_golden(make_spec(setup=setup)) is may
    wanted = a_set(setup=setup)
    assert bool(takes(look(wanted, member_of(wanted, told=GuestPhase.IN_SERVICE)))) is may


def test_machines_with_local_storage_boot() -> None:
    wanted = a_set(local_storage={"size": "16MiB", "mount": "/local"})
    assert takes(look(wanted, member_of(wanted))) == []


# ---- what goes on meanwhile ----------------------------------------------------------------------------------


def test_a_claim_does_not_wait_for_the_taking_and_takes_another_member_first() -> None:
    wanted = a_set(instances=2, standby=POOL)
    members = [member_of(wanted), spare(wanted, "00002"), spare(wanted, "00003")]
    made = look(wanted, *members, busy={"web-00002": EffectKind.TAKE_GOLDEN})
    assert [step.member.name for step in made.steps if isinstance(step, Claim)] == ["web-00003"]
    only = look(wanted, *members[:2], busy={"web-00002": EffectKind.TAKE_GOLDEN})
    assert [step.member.name for step in only.steps if isinstance(step, Claim)] == ["web-00002"]


def interrupted(made: Plan) -> list[str]:
    return [step.member.name for step in made.steps if isinstance(step, Interrupt)]


def test_whatever_is_due_on_the_source_goes_before_the_taking() -> None:
    wanted = a_set(instances=2, standby=POOL)
    busy = {"web-00002": EffectKind.TAKE_GOLDEN}
    claimed = look(wanted, member_of(wanted), spare(wanted, "00002"), busy=busy)
    assert interrupted(claimed) == ["web-00002"]
    at_rest = look(wanted, member_of(wanted), member_of(wanted, "00003"), spare(wanted, "00002"), busy=busy)
    assert interrupted(at_rest) == []
    one = member_of(a_set(), request=Request.REMOVE)
    leaving = look(a_set(), one, busy={one.name: EffectKind.TAKE_GOLDEN})
    assert interrupted(leaving) == [one.name]


def test_that_the_source_is_parked_afterwards_interrupts_nothing() -> None:
    wanted = a_set(standby={"state": "hibernated", "max_ready": 2})
    one = spare(wanted, "00002", phase=Phase.PARKING, parked=PoolState.HIBERNATED, told=GuestPhase.STANDBY)
    made = look(wanted, member_of(wanted), one, busy={one.name: EffectKind.TAKE_GOLDEN})
    assert interrupted(made) == []


def test_a_set_is_as_declared_while_one_is_taken() -> None:
    wanted = a_set()
    made = look(wanted, member_of(wanted))
    assert any(type(step).__name__ == "Settle" for step in made.steps)


def test_machines_wait_for_the_golden_image_that_they_will_be_forks_of_but_not_for_long() -> None:
    wanted = a_set(standby=POOL)
    source = member_of(wanted)
    new = spare(wanted, "00002", phase=Phase.CREATING, parked=None, told=None, phase_since=NOW)
    desired = wish(wanted, members=[source, new])
    world = see_world(host_of(source))
    for busy in ({}, {source.name: EffectKind.TAKE_GOLDEN}):
        made = plan(desired, world, busy, NOW)
        assert EffectKind.CREATE not in kinds(made)
        assert made.wake_at is not None
        assert made.wake_at <= NOW + PATIENCE
    late = plan(desired, world, {source.name: EffectKind.TAKE_GOLDEN}, NOW + PATIENCE)
    assert EffectKind.CREATE in kinds(late)


def test_the_wait_begins_when_somebody_is_there_to_take_it_of() -> None:
    """However long others have waited for a place: of a guest that boots for minutes nobody is a fork before."""
    wanted = a_set(instances=2)
    new = member_of(wanted, "00002", phase=Phase.CREATING, told=None, phase_since=NOW - 500)
    for since, waits in ((NOW - 1, True), (NOW - PATIENCE, False)):
        source = member_of(wanted, phase_since=since)
        made = look_at(wanted, [source, new], [source])
        assert (EffectKind.CREATE not in kinds(made)) is waits
        set_up = replace(source, phase=Phase.READY, told=None)
        assert (EffectKind.CREATE not in kinds(look_at(wanted, [set_up, new], [set_up]))) is waits


def test_who_waits_for_it_is_told_once() -> None:
    wanted = a_set(instances=3)
    source = member_of(wanted)
    given: dict[str, Any] = {"phase": Phase.CREATING, "told": None, "phase_since": NOW}
    news = [member_of(wanted, f"0000{number}", **given) for number in (2, 3)]
    (told,) = [step for step in look_at(wanted, [source, *news], [source]).steps if isinstance(step, NoteWait)]
    why = "waits for the golden image of its model on host local"
    assert (list(told.members), told.why) == (news, why)
    assert told.reason == f"not begun yet, 2 machines of web: {why}"
    known = [replace(one, reason=why) for one in news]
    made = look_at(wanted, [source, *known], [source])
    assert not [step for step in made.steps if isinstance(step, NoteWait)]


def look_at(wanted: ScaleSet, members: list[Member], seen: list[Member]) -> Plan:
    return planned(wish(wanted, members=members), see_world(host_of(*seen)))


def test_who_failed_does_not_wait_because_it_boots() -> None:
    wanted = a_set(standby=POOL)
    source = member_of(wanted)
    new = spare(wanted, "00002", phase=Phase.CREATING, parked=None, told=None, failures=1)
    made = planned(wish(wanted, members=[source, new]), see_world(host_of(source)))
    assert EffectKind.CREATE in kinds(made)


# ---- forking -------------------------------------------------------------------------------------------------


def forked(wanted: ScaleSet, member: Member, **fields: Any) -> bool:
    made = planned(wish(wanted, members=[member]), see_world(host_of(goldens=(wanted.model,))), **fields)
    (kind,) = kinds(made)
    assert kind in (EffectKind.CREATE, EffectKind.FORK)
    return kind is EffectKind.FORK


def test_a_new_machine_is_a_fork_where_there_is_a_golden_image() -> None:
    wanted = a_set()
    new = member_of(wanted, phase=Phase.CREATING)
    assert forked(wanted, new)
    assert not forked(wanted, replace(new, failures=1))
    assert not forked(make_set(make_spec(instances=1, endpoints=[], setup={"fork": False})), new)


def test_drives_must_fit_a_machine_that_runs() -> None:
    drives = [{"name": "data", "size": "16MiB", "mount": "/data"}]
    held = Drive("web", "data", 1, "local", 2**20, "web-00001", NOW)
    for bus in ("virtio", "sata"):
        wanted = a_set(drives=drives, machine={"disk_bus": bus})
        new = member_of(wanted, phase=Phase.CREATING, drives=(held,))
        desired = replace(wish(wanted, members=[new]), drives=(held,))
        made = planned(desired, see_world(host_of(goldens=(wanted.model,))))
        assert (EffectKind.FORK in kinds(made)) is (bus == "virtio")


def test_a_fork_that_was_begun_is_finished_as_one_and_what_boots_is_left_to_boot() -> None:
    wanted = a_set()
    new = member_of(wanted, phase=Phase.CREATING)
    for is_forked, goldens in ((True, ()), (False, (wanted.model,))):
        seen = replace(see_machine(new), forked=is_forked)
        world = see_world(see_host(seen, goldens=frozenset(goldens)))
        made = planned(wish(wanted, members=[new]), world)
        assert kinds(made) == [EffectKind.FORK if is_forked else EffectKind.CREATE]


def test_a_fork_does_not_wait_for_restarts_that_its_setup_is_past() -> None:
    wanted = a_set(setup={"restarts": 2})
    one = member_of(wanted, phase=Phase.PROVISIONING)
    for is_forked in (True, False):
        world = see_world(see_host(replace(see_machine(one), forked=is_forked)))
        assert bool(kinds(planned(wish(wanted, members=[one]), world))) is is_forked


def test_a_fork_that_could_not_be_told_who_it_is_is_made_anew_and_boots() -> None:
    wanted = a_set()
    one = member_of(wanted, phase=Phase.PROVISIONING)
    first = plan_without_fork(one, "no agent")
    assert (first.phase, first.new_body, first.is_repair) == (Phase.CREATING, True, True)
    again = plan_without_fork(replace(one, failures=1), "no agent")
    assert (again.phase, again.new_body) == (Phase.FAILED, False)


# ---- troubles ------------------------------------------------------------------------------------------------


def with_trouble(desired: Desired, model: str, failures: int, at: float) -> Desired:
    return replace(desired, golden_troubles={("local", model): GoldenTrouble(failures, at, "no room")})


def test_after_a_failure_there_is_a_pause_that_grows_and_in_the_end_none_is_taken() -> None:
    wanted = a_set()
    one = member_of(wanted)
    desired, world = wish(wanted, members=[one]), see_world(host_of(one))
    first = planned(with_trouble(desired, wanted.model, 1, NOW - 29), world)
    assert (takes(first), first.wake_at) == ([], NOW + 1)
    assert takes(planned(with_trouble(desired, wanted.model, 1, NOW - 30), world)) == [one.name]
    assert takes(planned(with_trouble(desired, wanted.model, 2, NOW - 59), world)) == []
    given_up = planned(with_trouble(desired, wanted.model, GIVES_UP_AFTER, 0.0), world)
    assert (takes(given_up), given_up.wake_at) == ([], None)


def test_a_guest_that_was_ready_before_its_agent_is_asked_again_in_a_moment() -> None:
    wanted = a_set()
    one = member_of(wanted)
    desired, world = wish(wanted, members=[one]), see_world(host_of(one))
    early = planned(with_trouble(desired, wanted.model, 0, NOW), world)
    assert (takes(early), early.wake_at) == ([], NOW + EARLY_PAUSE)
    assert takes(planned(with_trouble(desired, wanted.model, 0, NOW - EARLY_PAUSE), world)) == [one.name]


def test_while_forks_fail_machines_boot() -> None:
    wanted = a_set()
    new = member_of(wanted, phase=Phase.CREATING)
    desired, world = wish(wanted, members=[new]), see_world(host_of(goldens=(wanted.model,)))
    assert kinds(planned(with_trouble(desired, wanted.model, 1, NOW), world)) == [EffectKind.CREATE]
    assert kinds(planned(with_trouble(desired, wanted.model, 1, NOW - 30), world)) == [EffectKind.FORK]
    assert kinds(planned(with_trouble(desired, "f" * 16, 1, NOW), world)) == [EffectKind.FORK]


# ---- removing ------------------------------------------------------------------------------------------------


def removed(made: Plan) -> list[tuple[str, str]]:
    return [(step.host, step.model) for step in made.steps if isinstance(step, RemoveGolden)]


def test_one_goes_when_no_set_declares_its_model_and_no_member_is_of_it() -> None:
    wanted, old = a_set(), "0123456789abcdef"
    current = member_of(wanted)
    assert removed(look(wanted, current, goldens=(wanted.model, old))) == [("local", old)]
    behind = member_of(wanted, "00002", model=old)
    assert removed(look(wanted, current, behind, goldens=(wanted.model, old))) == []


def test_what_is_left_of_one_goes_too_unless_its_model_may_have_one_again() -> None:
    wanted, old = a_set(), "0123456789abcdef"

    def look_where_parts_are(member: Member) -> Plan:
        host = replace(host_of(member), golden_remnants=frozenset([wanted.model, old]))
        return planned(wish(wanted, members=[member]), see_world(host))

    assert removed(look_where_parts_are(member_of(wanted))) == [("local", old)]
    assert removed(look_where_parts_are(member_of(wanted, model=old))) == []


def test_a_set_that_is_deleted_takes_it_along_before_it_is_forgotten() -> None:
    gone = make_set(make_spec(instances=1, endpoints=[]), deleting=True, generation=2)
    made = look(gone, goldens=(gone.model,))
    assert [type(step) for step in made.steps] == [RemoveGolden, ForgetSet]


def test_without_forks_it_goes_with_the_last_machine_of_its_model() -> None:
    wanted = a_set(setup={"fork": False})
    assert removed(look(wanted, member_of(wanted), goldens=(wanted.model,))) == []
    none = a_set(setup={"fork": False}, instances=0)
    assert removed(look(none, goldens=(none.model,))) == [("local", none.model)]


def test_whether_a_set_forks_changes_no_machine() -> None:
    models = {a_set(setup=setup).model for setup in ({}, {"fork": True}, {"fork": False})}
    assert len(models) == 1


# ---- any world -----------------------------------------------------------------------------------------------


@many
@given(worlds())
def test_a_golden_image_is_taken_of_one_calm_member_of_each_host_that_nothing_else_is_done_to(
    world: World,
) -> None:
    made = world.plan()
    effects = [step for step in made.steps if isinstance(step, Effect)]
    taken = [step.member for step in effects if is_take(step)]
    assert len({one.host for one in taken}) == len(taken)
    for member in taken:
        others = [step for step in made.steps if getattr(step, "member", None) == member and step.reason]
        assert len(others) == 1
        wanted = world.sets[member.set_name]
        assert may_have_golden(wanted.spec)
        assert member.model == wanted.model
        assert world.power(member) is Power.RUNNING
        assert member.model not in world.hosts[member.host].goldens
    event(f"{len(taken)} taken")


@many
@given(worlds(emulates=False))
def test_golden_images_change_only_how_machines_are_made(world: World) -> None:
    """With every golden image there is already, the plan is that without any, but for forks."""
    models = frozenset(one.model for one in world.sets.values()) | {"0123456789abcdef"}
    full = world
    for name, host in world.hosts.items():
        if host.answers:
            full = with_goldens(full, name, models)
    off = {name: replace(one, spec=_without_forks(one.spec)) for name, one in world.sets.items()}
    forking = [_as_created(step) for step in full.plan().steps if not isinstance(step, RemoveGolden)]
    assert sorted(forking) == sorted(map(_as_created, replace(world, sets=off).plan().steps))
    event(f"{sum(kind is EffectKind.FORK for kind in kinds(full.plan()))} forks")


def _without_forks(spec: ScaleSetSpec) -> ScaleSetSpec:
    return spec.model_copy(update={"setup": spec.setup.model_copy(update={"fork": False})})


def _as_created(step: Step) -> tuple[str, str]:
    """Its kind and reason, whether or not a machine is forked."""
    return type(step).__name__, step.reason.replace("forking machine", "creating machine")


@some
@given(worlds())
def test_whatever_is_made_of_a_world_ends_with_one_golden_image_of_each_model_that_can_have_one(
    start: World,
) -> None:
    end = at_rest(start)
    for name, host in end.hosts.items():
        here = [one for one in end.members.values() if one.host == name]
        assert host.goldens <= {one.model for one in end.sets.values() if may_have_golden(one.spec)} | {
            one.model for one in here
        }
    event(f"{sum(len(host.goldens) for host in end.hosts.values())} there")
