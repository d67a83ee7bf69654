"""Who gets which drive, and what waits for it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Admit, Claim, Effect, EffectKind, Renew, Repair, Retire, Step
from orchestrator.models.storage import Drive, DriveSpec
from orchestrator.planner import plan
from orchestrator.planner.drives import FreeDrives, Holder, drives_for, held_back
from orchestrator.planner.repair import Moment, plan_repairs
from orchestrator.planner.world import Limits
from tests.builders import (
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
from tests.unit.world import World, after_step, at_rest
from tests.unit.worlds import worlds

DATA, LOGS = make_spec(
    drives=[
        {"name": "data", "size": "16MiB", "mount": "/data"},
        {"name": "logs", "size": "32MiB", "mount": "/logs"},
    ]
).drives
HOLDER = Holder("web-00001", "web", "local")


def make_drive(slot: int = 0, member: str | None = None, **fields: object) -> Drive:
    made = Drive("web", "data", slot, "local", DATA.size, member, NOW)
    return replace(made, **fields)  # type: ignore[arg-type]


def data_set(**fields: object) -> ScaleSet:
    return make_set(make_spec(drives=[{"name": "data", "size": "16MiB", "mount": "/data"}], **fields))


def only(known: list[Drive], wanted: tuple[DriveSpec, ...] = (DATA,), holder: Holder = HOLDER) -> Drive:
    ((drive, _why),) = drives_for(known, wanted, holder, NOW)
    return drive


# ---- which ---------------------------------------------------------------------------------------------------


def test_the_free_drive_with_the_lowest_slot_is_taken() -> None:
    known = [make_drive(2), make_drive(1), make_drive(0, "web-00009")]
    assert only(known) == make_drive(1, "web-00001")


def test_without_a_free_one_a_new_one_gets_the_smallest_free_number() -> None:
    known = [make_drive(0, "web-00009"), make_drive(2, "web-00008")]
    assert only(known) == make_drive(1, "web-00001")


def test_what_is_free_on_another_host_or_given_up_is_not_taken() -> None:
    known = [make_drive(0, host="other"), make_drive(1, is_deleting=True)]
    assert only(known).slot == 2


def test_one_of_every_name_and_what_it_has_it_keeps() -> None:
    assert drives_for([make_drive(3, "web-00001")], (DATA,), HOLDER, NOW) == []
    made = only([make_drive(3, "web-00001")], (DATA, LOGS))
    assert (made.name, made.slot, made.size) == ("logs", 0, LOGS.size)


def test_on_another_host_it_begins_anew_and_the_old_one_waits_there() -> None:
    changes = drives_for([make_drive(0, "web-00001", host="other")], (DATA,), HOLDER, NOW)
    assert [one for one, _why in changes] == [make_drive(0, host="other"), make_drive(1, "web-00001")]


# ---- where ---------------------------------------------------------------------------------------------------


def test_a_cold_instance_goes_where_its_drive_is_although_another_host_has_more_room() -> None:
    wanted = data_set(instances=1)
    hosts = (see_host(name="a", memory_total=2**36), see_host(name="b", memory_total=2**30))
    desired = replace(wish(wanted), drives=(make_drive(host="b"),))
    (step,) = (one for one in plan(desired, see_world(*hosts), {}, NOW).steps if isinstance(one, Admit))
    assert step.host == "b"


def test_the_member_beside_a_free_drive_is_claimed_first() -> None:
    wanted = data_set(instances=1, standby={"state": "stopped", "max_ready": 3})
    pool = [
        make_member(wanted, f"0000{number}", role=Role.STANDBY, phase=Phase.STANDBY, host=host)
        for number, host in enumerate("aab", start=1)
    ]
    hosts = [
        see_host(*(see_machine(one, Power.STOPPED) for one in pool if one.host == name), name=name)
        for name in "ab"
    ]
    desired = replace(wish(wanted, members=pool), drives=(make_drive(host="b"),))
    (step,) = (one for one in plan(desired, see_world(*hosts), {}, NOW).steps if isinstance(one, Claim))
    assert step.member.name == "web-00003"


def test_free_are_only_hosts_that_have_one_of_every_name_and_answer() -> None:
    drives = [{"name": name, "size": "16MiB", "mount": f"/{name}"} for name in ("data", "logs")]
    wanted = make_set(make_spec(drives=drives))
    hosts = [see_host(name=name, answers=name != "c") for name in "abc"]
    both = tuple(
        make_drive(number, name=name, host=host) for host in "bc" for number, name in enumerate(("data", "logs"))
    )
    desired = replace(wish(wanted), drives=(*both, make_drive(7, host="a")))
    free = FreeDrives.of(desired, see_world(*hosts))
    assert (free.hosts("web"), free.total("web")) == ({"b"}, 1)
    assert free.take("web", "b")
    assert not free.take("web", "b")


# ---- what waits ----------------------------------------------------------------------------------------------


def leaving(wanted: ScaleSet, count: int) -> list[Member]:
    found = make_members(wanted, count, phase=Phase.DELETING, request=Request.REMOVE)
    return [replace(one, drives=(make_drive(number, one.name),)) for number, one in enumerate(found)]


def test_growth_waits_for_drives_that_are_about_to_become_free() -> None:
    wanted = data_set()
    members = leaving(wanted, 2)
    powers = {one.name: Power.RUNNING for one in members}
    assert held_back(wanted, members, powers, 1, FreeDrives()) == 1
    assert held_back(wanted, members, powers, 3, FreeDrives()) == 2
    free = FreeDrives.of(replace(wish(wanted), drives=(make_drive(5),)), see_world(see_host()))
    assert held_back(wanted, members, powers, 1, free) == 0
    assert held_back(wanted, members, powers, 2, free) == 1


def test_nothing_waits_without_drives_or_for_a_host_that_does_not_answer() -> None:
    plain = make_set()
    members = make_members(plain, 2, phase=Phase.DELETING)
    powers = {one.name: Power.RUNNING for one in members}
    assert held_back(plain, members, powers, 2, FreeDrives()) == 0
    wanted = data_set()
    lost = leaving(wanted, 2)
    assert held_back(wanted, lost, dict.fromkeys(powers, Power.UNKNOWN), 2, FreeDrives()) == 0


def test_the_place_of_a_failed_instance_is_taken_when_its_drive_is_free() -> None:
    wanted = data_set(instances=1, standby={"state": "stopped", "max_ready": 2})
    broken = make_member(wanted, "00001", phase=Phase.FAILED, failures=3, phase_since=NOW)
    spare = make_member(wanted, "00002", role=Role.STANDBY, phase=Phase.STANDBY)
    world = World(
        {"web": wanted},
        {one.name: one for one in (broken, spare)},
        {"local": see_host(see_machine(spare, Power.STOPPED))},
        see_world().balancer,
        drives={("web", "data", 0): make_drive(0, broken.name)},
    )
    first = world.plan()
    assert [one.member.name for one in first.steps if isinstance(one, Retire)] == [broken.name]
    assert not [one for one in first.steps if isinstance(one, Claim)]
    end = at_rest(world)
    assert [(one.slot, one.member) for one in end.drives.values()] == [(0, spare.name)]


def spread_world(hosts: str, broken: Member, spare: Member, wanted: ScaleSet) -> list[Step]:
    """The plan for a failed instance with a drive and a spare, with a host for each letter, each a zone."""
    seen = [
        see_host(*([see_machine(spare, Power.STOPPED)] if one == spare.host else []), name=one, zone=one)
        for one in hosts
    ]
    members = [replace(broken, drives=(make_drive(0, broken.name, host=broken.host),)), spare]
    return list(plan(wish(wanted, members=members), see_world(*seen), {}, NOW).steps)


def test_an_instance_with_drives_gives_way_only_to_a_member_on_its_host() -> None:
    wanted = data_set(instances=1, standby={"state": "stopped", "max_ready": 2})
    for host, gone in (("a", ["web-00001"]), ("b", [])):
        broken = make_member(wanted, "00001", phase=Phase.FAILED, failures=3, phase_since=NOW, host="a", zone="a")
        spare = make_member(wanted, "00002", role=Role.STANDBY, phase=Phase.STANDBY, host=host, zone=host)
        steps = [one for one in spread_world("ab", broken, spare, wanted) if isinstance(one, Retire)]
        assert [one.member.name for one in steps] == gone
        assert all(one.failures == 3 for one in steps)


def test_of_zones_with_equally_many_the_one_with_a_free_drive_comes_first() -> None:
    wanted = data_set(instances=2)
    seen = see_world(see_host(name="a", zone="a"), see_host(name="b", zone="b"))
    desired = replace(wish(wanted), drives=(make_drive(0, host="b"), make_drive(1, host="b")))
    steps = [one for one in plan(desired, seen, {}, NOW).steps if isinstance(one, Admit)]
    assert [one.zone for one in steps] == ["b", "a"]


def test_a_claim_stays_in_its_zone_although_a_drive_is_free_in_another() -> None:
    wanted = data_set(instances=2, standby={"state": "stopped", "max_ready": 4})
    serving = make_member(wanted, "00001", host="b", zone="b")
    pool = [
        make_member(wanted, f"0010{number}", role=Role.STANDBY, phase=Phase.STANDBY, host=host, zone=host)
        for number, host in enumerate("ab", start=1)
    ]
    hosts = [
        see_host(see_machine(pool[0], Power.STOPPED), name="a", zone="a"),
        see_host(see_machine(pool[1], Power.STOPPED), see_machine(serving), name="b", zone="b"),
    ]
    desired = replace(wish(wanted, members=[serving, *pool]), drives=(make_drive(host="b"),))
    (step,) = (one for one in plan(desired, see_world(*hosts), {}, NOW).steps if isinstance(one, Claim))
    assert step.member.host == "a"


def test_no_instance_leaves_for_a_new_model_while_another_waits_for_its_drive() -> None:
    wanted = data_set(instances=3, endpoints=[])
    serving = make_members(wanted, 2, model="0" * 16)
    gone = make_member(wanted, "00009", phase=Phase.DELETING, request=Request.REMOVE, model="0" * 16)
    members = [*serving, replace(gone, drives=(make_drive(0, gone.name),))]
    host = see_host(*(see_machine(one, Power.RUNNING) for one in members))
    steps = plan(wish(wanted, members=members), see_world(host), {}, NOW).steps
    assert not [one for one in steps if isinstance(one, Renew | Admit)]
    let_go = replace(wish(wanted, members=serving), departed=frozenset({gone.name}))
    without = plan(let_go, see_world(host), {}, NOW).steps
    assert [one for one in without if isinstance(one, Admit)]


def test_who_waits_for_a_drive_counts_as_out_of_service_for_repairs() -> None:
    wanted = data_set(instances=3, repair={"action": "restart", "grace": "0s", "max_unhealthy": "34%"})
    ill = make_member(wanted, "00001", unhealthy_since=NOW - 900.0, phase_since=NOW - 900.0)
    well = make_member(wanted, "00002")
    gone = make_member(wanted, "00009", phase=Phase.DELETING, request=Request.REMOVE)
    gone = replace(gone, drives=(make_drive(0, gone.name),))
    for members, repaired in (([ill, well, gone], []), ([ill, well], [ill.name])):
        powers = {one.name: Power.RUNNING for one in members}
        observed = replace(see_world(see_host()), silent=frozenset({ill.name}))
        moment = Moment(powers, frozenset(), observed, NOW, Limits())
        steps = plan_repairs(wanted, members, moment).steps
        assert [one.member.name for one in steps if isinstance(one, Repair)] == repaired


# ---- always --------------------------------------------------------------------------------------------------


@many
@given(worlds())
def test_no_plan_takes_a_drive_away_and_each_has_one_holder_on_its_host(start: World) -> None:
    seen = dict(start.drives)

    def witness(world: World, step: Step) -> None:
        for key, before in seen.items():
            assert key in world.drives
            now = world.drives[key]
            assert (now.host, now.size, now.is_deleting) == (before.host, before.size, before.is_deleting)
        seen.update(world.drives)
        _assert_one_holder(world)
        if isinstance(step, Effect) and step.kind is EffectKind.CREATE and step.member.role is Role.INSTANCE:
            declared = {one.name for one in world.sets[step.member.set_name].spec.drives}
            is_drawn = step.member.name in start.members
            assert is_drawn or {one.name for one in world.held_by(step.member.name)} >= declared

    _assert_one_holder(at_rest(start, witness=witness))


def _assert_one_holder(world: World) -> None:
    held = [(one.member, one.name) for one in world.drives.values() if one.member is not None]
    assert len(set(held)) == len(held)
    for drive in world.drives.values():
        if drive.member is not None:
            holder = world.members[drive.member]
            assert (holder.host, holder.set_name, holder.role) == (drive.host, drive.set_name, Role.INSTANCE)


@many
@given(worlds(deleting=False))
def test_a_drive_is_only_let_go_when_its_holder_is_gone(start: World) -> None:
    def witness(world: World, step: Step) -> None:
        after = after_step(world, step)
        for key, before in world.drives.items():
            if before.member is not None and after.drives[key].member != before.member:
                assert before.member not in after.members
                assert not any(
                    one.member == before.member for host in after.hosts.values() for one in host.machines.values()
                )

    at_rest(start, witness=witness)


@many
@given(worlds(), st.integers(0, 5))
def test_an_instance_admitted_or_claimed_has_a_drive_of_every_name(start: World, size: int) -> None:
    sets = {
        name: replace(one, spec=one.spec.model_copy(update={"instances": size}), generation=one.generation + 1)
        for name, one in start.sets.items()
    }
    end = at_rest(replace(start, sets=sets))
    for member in end.members.values():
        was = start.members.get(member.name)
        if member.role is Role.INSTANCE and (was is None or was.role is Role.STANDBY):
            declared = {one.name for one in end.sets[member.set_name].spec.drives}
            assert {one.name for one in end.held_by(member.name)} == declared
