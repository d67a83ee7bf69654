"""A lost store made again: adopt(observe(world)) gives back the members; and with the loop and a real store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.ledger import Ledger
from orchestrator.errors import Conflict, HostError, NotFound, SpecError
from orchestrator.lifecycle.telling import has_to_enter
from orchestrator.models.adoption import AdoptedSet, Adoption, Declaration, FoundMachine, HostSurvey, Source
from orchestrator.models.audit import Kind
from orchestrator.models.members import Member, Phase, PoolState, Request, Role, ScaleSet, lost_image
from orchestrator.models.naming import console_log, domain_name, drive_volume, local_volume, raw_volume
from orchestrator.models.ownership import TagState, tag_for
from orchestrator.models.sightings import Power
from orchestrator.planner.adoption import Known, plan_adoption
from orchestrator.planner.parking import PARKED_POWER
from orchestrator.service import declare
from orchestrator.service.adopt import find_adoption, refuse_unneeded
from orchestrator.store.adoption import write_adoption
from tests.builders import INSTALLATION, MIB, NOW, PREFIX, make_image, make_member, make_set, make_spec
from tests.unit.examples import many
from tests.unit.loop import Site, open_site
from tests.unit.stock import audited

DRIVES = [{"name": "data", "size": "16MiB", "mount": "/data"}]


# ---- a world, and what is found of it ------------------------------------------------------------------------


def tag_state(member: Member, wanted: ScaleSet) -> TagState:
    """As far as a member in that phase has been marked."""
    if member.phase in (Phase.CREATING, Phase.PROVISIONING):
        return TagState.NEW
    if member.role is Role.STANDBY or has_to_enter(member, wanted):
        return TagState.SET_UP
    return TagState.STOPPED if member.phase is Phase.STOPPED else TagState.SERVING


def find(member: Member, wanted: ScaleSet, power: Power, **fields: object) -> FoundMachine:
    disks = {drive_volume(PREFIX, one.set_name, one.name, one.slot) for one in member.drives}
    if wanted.spec.local_storage is not None:
        disks.add(local_volume(PREFIX, member.name, member.storage_since))
    tag = tag_for(member, INSTALLATION, wanted.image.ref, tag_state(member, wanted))
    domain = domain_name(PREFIX, member.name)
    where = member.host, member.zone
    found = FoundMachine(domain, member.name, *where, power, tag, frozenset(disks), member.memory)
    return replace(found, **fields)  # type: ignore[arg-type]


def survey(*machines: FoundMachine, host: str = "local", **fields: object) -> HostSurvey:
    volumes = {disk: 16 * MIB for machine in machines for disk in machine.disks}
    return replace(HostSurvey(host, machines, volumes), **fields)  # type: ignore[arg-type]


def known(*copies: ScaleSet, **fields: object) -> Known:
    made = Known(PREFIX, INSTALLATION, copies=tuple(Declaration.of(one) for one in copies))
    return replace(made, **fields)  # type: ignore[arg-type]


@st.composite
def resting(draw: st.DrawFn, wanted: ScaleSet, number: int) -> tuple[Member, Power]:
    """A member that is where it should be, or is being made, and its machine."""
    role = draw(st.sampled_from(Role))
    if role is Role.STANDBY:
        parked = draw(st.sampled_from(PoolState))
        phase, power, state = Phase.STANDBY, PARKED_POWER[parked], parked
    else:
        phase = draw(st.sampled_from([Phase.PROVISIONING, Phase.IN_SERVICE, Phase.STOPPED]))
        power, state = (Power.STOPPED if phase is Phase.STOPPED else Power.RUNNING), None
    incarnation = draw(st.integers(1, 4))
    member = make_member(
        wanted,
        f"{number:05}",
        role=role,
        phase=phase,
        parked=state,
        incarnation=incarnation,
        storage_since=draw(st.integers(1, incarnation)) if wanted.spec.local_storage is not None else 1,
        host=draw(st.sampled_from(["local", "other"])),
        address=f"127.77.1.{number + 2}",
        model=draw(st.sampled_from([wanted.model, "0" * 16])),
        created_at=draw(st.floats(0, NOW, allow_nan=False)),
        told=None,
        entered=role is Role.INSTANCE and phase is not Phase.PROVISIONING,
        memory=draw(st.sampled_from([128 * MIB, 256 * MIB])),
    )
    return member, power


@st.composite
def installations(draw: st.DrawFn) -> tuple[ScaleSet, list[tuple[Member, Power]]]:
    local = {"size": "16MiB", "mount": "/mnt/local"} if draw(st.booleans()) else None
    hooks = {"on_claim": ["true"]} if draw(st.booleans()) else {}
    count = draw(st.integers(0, 6))
    wanted = make_set(make_spec(instances=count, local_storage=local, hooks=hooks), generation=7)
    return wanted, [draw(resting(wanted, number)) for number in range(count)]


def essence(member: Member) -> Member:
    """Without what only says when and why."""
    return replace(member, reason="", phase_since=0.0, failures=0, told=None)


@many
@given(installations())
def test_what_was_found_of_a_world_gives_back_its_members(
    made: tuple[ScaleSet, list[tuple[Member, Power]]],
) -> None:
    wanted, members = made
    hosts = [
        survey(*(find(one, wanted, power) for one, power in members if one.host == name), host=name)
        for name in ("local", "other")
    ]
    adoption = plan_adoption(known(wanted), hosts, NOW)
    assert [essence(one) for one in adoption.members] == [essence(one) for one, _ in members]
    (adopted,) = adoption.sets
    assert adopted.declared == replace(Declaration.of(wanted), generation=8)
    assert adopted.found == len(members)


@many
@given(installations())
def test_a_store_that_knows_everything_is_not_changed(made: tuple[ScaleSet, list[tuple[Member, Power]]]) -> None:
    wanted, members = made
    hosts = [
        survey(*(find(one, wanted, power) for one, power in members if one.host == name), host=name)
        for name in ("local", "other")
    ]
    records = tuple(one for one, _ in members)
    adoption = plan_adoption(known(wanted, sets=(Declaration.of(wanted),), members=records), hosts, NOW)
    assert (adoption.members, adoption.dropped) == ((), ())


# ---- sets ----------------------------------------------------------------------------------------------------


def adopted_set(adoption: Adoption) -> AdoptedSet:
    (one,) = adoption.sets
    return one


def serving(suffix: str, wanted: ScaleSet, **fields: object) -> Member:
    number = int(suffix)
    given_: dict[str, object] = {"phase": Phase.IN_SERVICE, "address": f"127.77.2.{number}", "entered": True}
    return make_member(wanted, suffix, **{**given_, **fields})


def test_a_copy_that_is_newer_than_the_store_is_believed_and_its_count_too() -> None:
    old, new = make_set(make_spec(instances=3), generation=3), make_set(make_spec(instances=1), generation=5)
    hosts = [survey(*(find(serving(f"0000{n}", new), new, Power.RUNNING) for n in (1, 2)))]
    one = adopted_set(plan_adoption(known(new, sets=(Declaration.of(old),)), hosts, NOW))
    assert (one.declared.spec.instances, one.declared.generation, one.source) == (1, 6, Source.COPY)


def test_an_older_count_takes_no_machine_away() -> None:
    old = make_set(make_spec(instances=1), generation=3)
    hosts = [survey(*(find(serving(f"0000{n}", old), old, Power.RUNNING) for n in (1, 2, 3)))]
    adoption = plan_adoption(known(sets=(Declaration.of(old),)), hosts, NOW)
    assert adopted_set(adoption).declared.spec.instances == 3
    assert adoption.notes == ("web: 1 instances were declared, 3 are there and are kept",)


def test_a_set_that_is_being_deleted_stays_so() -> None:
    old = make_set(make_spec(instances=1), generation=3, deleting=True)
    adoption = plan_adoption(known(old), [survey(find(serving("00001", old), old, Power.RUNNING))], NOW)
    assert adopted_set(adoption).declared.deleting


def test_machines_of_a_set_that_nobody_declared_are_refused_with_the_way_out() -> None:
    wanted = make_set()
    with pytest.raises(Conflict) as error:
        plan_adoption(known(), [survey(find(serving("00001", wanted), wanted, Power.RUNNING))], NOW)
    assert "1 of set 'web'" in error.value.message
    assert "understudy adopt FILE" in error.value.fix


# ---- an old store --------------------------------------------------------------------------------------------


def adopt_over(record: Member, machine: FoundMachine, wanted: ScaleSet) -> Adoption:
    return plan_adoption(known(sets=(Declaration.of(wanted),), members=(record,)), [survey(machine)], NOW)


def test_a_member_that_was_claimed_since_is_an_instance() -> None:
    wanted = make_set()
    now = serving("00001", wanted)
    before = replace(now, role=Role.STANDBY, phase=Phase.STANDBY, parked=PoolState.STOPPED)
    (member,) = adopt_over(before, find(now, wanted, Power.RUNNING), wanted).members
    assert (member.role, member.phase) == (Role.INSTANCE, Phase.IN_SERVICE)


def test_a_newer_body_is_believed_and_an_older_one_is_not() -> None:
    wanted = make_set()
    record = serving("00001", wanted, incarnation=2)
    (member,) = adopt_over(record, find(replace(record, incarnation=3), wanted, Power.RUNNING), wanted).members
    assert member.incarnation == 3
    assert adopt_over(record, find(replace(record, incarnation=1), wanted, Power.RUNNING), wanted).members == ()


def test_a_member_that_is_gone_is_kept_unless_somebody_has_its_address() -> None:
    wanted = make_set()
    gone, new = serving("00001", wanted), serving("00002", wanted)
    records = known(sets=(Declaration.of(wanted),), members=(gone,))
    assert plan_adoption(records, [survey(find(new, wanted, Power.RUNNING))], NOW).dropped == ()
    heir = replace(new, address=gone.address)
    assert plan_adoption(records, [survey(find(heir, wanted, Power.RUNNING))], NOW).dropped == (gone,)


def test_what_was_let_go_is_left_to_the_controller() -> None:
    wanted = make_set()
    leak = serving("00001", wanted)
    made = known(wanted, departed=frozenset({leak.name}))
    adoption = plan_adoption(made, [survey(find(leak, wanted, Power.RUNNING))], NOW)
    assert adoption.members == ()
    assert "was let go before" in adoption.notes[0]


def test_a_machine_that_does_not_say_enough_is_refused_only_if_nobody_knows_it() -> None:
    wanted = make_set()
    member = serving("00001", wanted)
    old = find(member, wanted, Power.RUNNING, tag=None)
    with pytest.raises(Conflict, match="an older version made"):
        plan_adoption(known(wanted), [survey(old)], NOW)
    assert adopt_over(member, old, wanted).dropped == ()


def test_two_machines_of_one_address_are_refused() -> None:
    wanted = make_set()
    twins = [serving(f"0000{number}", wanted, address="127.77.2.9") for number in (1, 2)]
    with pytest.raises(Conflict, match=r"same address 127\.77\.2\.9"):
        plan_adoption(known(wanted), [survey(*(find(one, wanted, Power.RUNNING) for one in twins))], NOW)


# ---- drives --------------------------------------------------------------------------------------------------


def test_volumes_become_drives_again_held_by_the_machine_that_has_them() -> None:
    wanted = make_set(make_spec(drives=DRIVES))
    member = serving("00001", wanted)
    mine, free = drive_volume(PREFIX, "web", "data", 0), drive_volume(PREFIX, "web", "data", 4)
    theirs = drive_volume(PREFIX, "web", "data", 5)
    machine = find(member, wanted, Power.RUNNING, disks=frozenset({mine}))
    volumes = {mine: 20 * MIB, free: 16 * MIB, theirs: 16 * MIB, f"{PREFIX}-drive.web.data.007.qcow2": 1, "x": 1}
    host = survey(machine, volumes=volumes, disks_of_others=frozenset({theirs}))
    drives = plan_adoption(known(wanted), [host], NOW).drives
    assert {(one.name, one.slot, one.member, one.size, one.is_made) for one in drives} == {
        ("data", 0, member.name, 20 * MIB, True),
        ("data", 4, None, 16 * MIB, True),
    }


def test_raw_drives_of_an_earlier_version_are_taken_in_and_once_where_they_were_converted() -> None:
    wanted = make_set(make_spec(drives=DRIVES))
    member = serving("00001", wanted)
    slots = [drive_volume(PREFIX, "web", "data", slot) for slot in (0, 1)]
    raw = [raw_volume(one) for one in slots]
    machine = find(member, wanted, Power.RUNNING, disks=frozenset({raw[0]}))
    host = survey(machine, volumes={raw[0]: 20 * MIB, slots[1]: 24 * MIB, raw[1]: 16 * MIB})
    drives = plan_adoption(known(wanted), [host], NOW).drives
    assert {(one.slot, one.member, one.size, one.is_made) for one in drives} == {
        (0, member.name, 20 * MIB, True),
        (1, None, 24 * MIB, True),
    }


def test_of_an_old_record_and_a_machine_the_machine_has_the_drive() -> None:
    wanted = make_set(make_spec(drives=DRIVES))
    first, second = serving("00001", wanted), serving("00002", wanted)
    slots = [drive_volume(PREFIX, "web", "data", slot) for slot in (0, 1)]
    before = plan_adoption(known(wanted), [survey(find(first, wanted, Power.RUNNING, disks={slots[0]}))], NOW)
    now = [
        find(first, wanted, Power.RUNNING, disks=frozenset({slots[1]})),
        find(second, wanted, Power.RUNNING, disks=frozenset({slots[0]})),
    ]
    records = known(wanted, members=(first,), drives=before.drives)
    drives = plan_adoption(records, [survey(*now)], NOW).drives
    assert {(one.slot, one.member) for one in drives} == {(0, second.name), (1, first.name)}


def test_a_free_drive_whose_volume_is_gone_is_forgotten_and_a_held_one_is_not() -> None:
    wanted = make_set(make_spec(drives=DRIVES))
    member = serving("00001", wanted)
    found = find(member, wanted, Power.RUNNING, disks=frozenset())
    made = plan_adoption(
        known(wanted), [survey(volumes={drive_volume(PREFIX, "web", "data", n): MIB for n in (0, 1)})], NOW
    ).drives
    records = (replace(made[0], member=member.name), made[1])
    adoption = plan_adoption(known(wanted, members=(member,), drives=records), [survey(found)], NOW)
    assert adoption.dropped_drives == (made[1],)
    assert adoption.drives == ()


@pytest.mark.parametrize(
    "volume",
    [
        f"{PREFIX}-drive.web.data.1.img",
        f"{PREFIX}-drive.web.1.qcow2",
        f"{PREFIX}-drive.web.data.01.raw",
        "a.b.c.1.qcow2",
    ],
)
def test_what_is_no_drive_of_ours_is_not_taken_in(volume: str) -> None:
    theirs = survey(volumes={volume: MIB, drive_volume(PREFIX, "web", "data", 0): MIB})
    (drive,) = plan_adoption(known(make_set(make_spec(drives=DRIVES))), [theirs], NOW).drives
    assert drive.slot == 0


def test_an_image_that_was_lost_before_is_not_written_again() -> None:
    lost = make_set(image=lost_image("micro", 7))
    other = make_set(make_spec(name="api"))
    assert plan_adoption(known(lost, other), [survey()], NOW).images == (other.image,)


# ---- with the loop, a real store and copies on disk ----------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path, hosts=("local", "other")) as made:
        made.ledger = Ledger(tmp_path / "declarations", tmp_path / "image-records")
        made.ledger.keep_images(made.store.list_images(), made.store.given_versions())
        yield made


def lose_the_store(site: Site) -> None:
    site.crash()
    with site.store.database.write() as connection:
        for table in ("members", "sets", "drives", "images", "departed", "events"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    site.ledger = Ledger(site.folder / "declarations", site.folder / "image-records")


def adopt(site: Site) -> Adoption:
    assert site.ledger is not None
    found = find_adoption(site.store, site.ledger, site.hosts, PREFIX)
    write_adoption(site.store, found)
    return found


def test_a_lost_store_is_rebuilt_and_no_machine_is_started_or_removed(site: Site) -> None:
    site.apply(instances=2, drives=DRIVES, standby={"max_ready": 4, "state": {"running": "50%", "stopped": "50%"}})
    site.settle()
    before = site.store.snapshot()
    machines = {
        name: (one.power, one.boots) for host in site.hosts.values() for name, one in host.machines.items()
    }
    rotation, images = site.balancer.rotation(), site.store.list_images()
    lose_the_store(site)
    adopt(site)
    site.settle()
    after = site.store.snapshot()
    assert [essence(replace(one, drives=())) for one in after.members] == [
        essence(replace(one, drives=())) for one in before.members
    ]
    assert after.drives == before.drives
    assert (after.sets[0].spec, after.sets[0].model) == (before.sets[0].spec, before.sets[0].model)
    assert site.store.list_images() == images
    assert site.balancer.rotation() == rotation
    assert machines == {
        name: (one.power, one.boots) for host in site.hosts.values() for name, one in host.machines.items()
    }
    site.scale(3)
    site.settle()
    assert len(site.instances()) == 3


def test_the_audit_names_adopt_before_it_and_only_disks_without_a_machine_after_it(site: Site) -> None:
    site.apply(instances=2, local_storage={"size": "16MiB", "mount": "/local"})
    site.settle()
    left = local_volume(PREFIX, "web-zzzzz", 1)
    site.hosts["other"].volumes[left] = b""
    lose_the_store(site)
    there = audited(site)
    (store,) = (one for one in there.audit.examine().findings if one.kind is Kind.STORE)
    assert "understudy adopt" in store.fix
    assert there.audit.mend(there.audit.examine()) == []
    adoption = adopt(site)
    assert adoption.left == ("web-zzzzz",)
    assert any("web-zzzzz" in words for words in adoption.notes)
    site.settle()
    there = audited(site)
    assert there.found() == [("volume", "left over", left)]
    assert there.mend() == []


def test_disks_that_somebody_may_need_are_not_left_over() -> None:
    wanted = make_set(make_spec(instances=1))
    member = make_member(wanted, "00001")
    disks = dict.fromkeys((local_volume(PREFIX, f"web-0000{one}", 1) for one in range(1, 6)), MIB)
    found = survey(
        find(member, wanted, Power.RUNNING),
        volumes=disks,
        foreign=(domain_name(PREFIX, "web-00002"),),
        disks_of_others=frozenset({local_volume(PREFIX, "web-00003", 1)}),
        logs=frozenset(console_log(domain_name(PREFIX, f"web-0000{one}"), 1) for one in (1, 6)),
    )
    adoption = plan_adoption(known(wanted, departed=frozenset({"web-00004"})), [found], NOW)
    assert adoption.left == ("web-00005", "web-00006")


def test_what_was_under_way_when_the_store_was_lost_is_done_again(site: Site) -> None:
    site.guest.hold("web-00001")
    site.apply(instances=1)
    site.turn_until(lambda: [one.phase for one in site.store.snapshot().members] == [Phase.PROVISIONING])
    name = site.store.snapshot().members[0].name
    lose_the_store(site)
    (member,) = adopt(site).members
    assert (member.name, member.phase) == (name, Phase.PROVISIONING)
    site.guest.let_go("web-00001")
    site.settle()
    assert [one.name for one in site.instances()] == [name]


def test_a_stopped_instance_stays_stopped(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    site.store.request(site.only(), Request.STOP)
    site.settle()
    lose_the_store(site)
    adopt(site)
    site.settle()
    assert site.only().phase is Phase.STOPPED


def test_nothing_of_others_is_adopted_or_touched(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    host = next(host for host in site.hosts.values() if host.machines)
    made = next(iter(host.machines.values())).blueprint
    host.machines[f"{PREFIX}-web-f0r31"] = replace(
        host.machines[made.domain], blueprint=replace(made, installation="feedfeed", member="web-f0r31")
    )
    host.foreign.add(f"{PREFIX}-web-n0tag")
    lose_the_store(site)
    adoption = adopt(site)
    assert {domain for _, domain in adoption.foreign} == {f"{PREFIX}-web-f0r31", f"{PREFIX}-web-n0tag"}
    site.settle()
    assert [one.name for one in site.instances()] == [made.member]
    assert f"{PREFIX}-web-f0r31" in host.machines


def test_with_a_silent_host_nothing_is_adopted(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    lose_the_store(site)
    site.hosts["other"].go_silent()
    with pytest.raises(HostError) as error:
        adopt(site)
    assert "host 'other' cannot be looked at" in error.value.message
    assert site.store.snapshot().members == ()


def test_a_file_is_taken_where_the_copy_is_lost_too(site: Site) -> None:
    spec = make_spec(instances=2)
    site.apply(spec)
    site.settle()
    before = {one.name for one in site.instances()}
    lose_the_store(site)
    ledger = site.ledger
    assert ledger is not None
    ledger.forget("web")
    with pytest.raises(Conflict, match="2 of set 'web'"):
        find_adoption(site.store, ledger, site.hosts, PREFIX)
    smaller = spec.model_copy(update={"instances": 1})
    write_adoption(site.store, find_adoption(site.store, ledger, site.hosts, PREFIX, [smaller], "/srv/web.yaml"))
    assert [one.file for one in site.store.snapshot().sets] == ["/srv/web.yaml"]
    site.settle()
    assert {one.name for one in site.instances()} == before
    unknown = spec.model_copy(update={"image": "nothing"})
    with pytest.raises(NotFound, match="image 'nothing' is missing"):
        find_adoption(site.store, ledger, site.hosts, PREFIX, [unknown])


def test_the_file_of_a_set_outlives_the_store_also_when_it_declares_it_no_more(site: Site) -> None:
    web = make_spec(instances=0, endpoints=[])
    shop = make_spec(name="shop", instances=0, endpoints=[])
    declare.apply_all(site.store, [web, shop], site.surroundings(), "/srv/both.yaml")
    site.settle()
    declare.apply_all(site.store, [web], site.surroundings(), "/srv/both.yaml")
    site.settle()
    assert site.ledger is not None
    assert site.ledger.find_newer(site.store.snapshot().sets) == ""
    lose_the_store(site)
    adopt(site)
    assert {one.name: one.file for one in site.store.snapshot().sets} == {"shop": "", "web": "/srv/both.yaml"}


def test_a_file_is_not_adopted_where_nothing_was_lost() -> None:
    refuse_unneeded([], "")
    refuse_unneeded([make_spec()], "the store was lost")
    with pytest.raises(SpecError, match="nothing was lost"):
        refuse_unneeded([make_spec()], "")


def test_images_that_the_store_has_are_not_changed(site: Site) -> None:
    site.apply(instances=0)
    site.settle()
    before = site.store.list_images()
    declared = Declaration.of(make_set(image=make_image(digest="e7" * 32)))
    write_adoption(site.store, Adoption(sets=(), images=(declared.image,)))
    assert site.store.list_images() == before
