"""Local storage and drives through the loop: what survives what, on the fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.apply.disks import drive_disk
from orchestrator.errors import Conflict, GuestError, HostError, NotFound, SpecError
from orchestrator.models.members import Member, Phase, Request
from orchestrator.models.naming import domain_name, drive_volume, local_volumes, raw_volume
from orchestrator.models.sightings import Power
from orchestrator.service import declare
from orchestrator.service import drives as wishes
from orchestrator.service import members as requests
from tests.builders import MIB, PREFIX
from tests.fakes import FakeDisks, FakeGuest, FakeHypervisor
from tests.support.installation import wait_until
from tests.unit.loop import Site, open_site

DRIVES = [{"name": "data", "size": "32MiB", "mount": "/mnt/data"}]
LOCAL = {"size": "32MiB", "mount": "/mnt/local"}
DATA = drive_volume(PREFIX, "web", "data", 0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def domain(member: Member) -> str:
    return domain_name(PREFIX, member.name)


def disks(site: Site, member: Member) -> set[str]:
    """What the machine has now."""
    return site.hosts[member.host].machines[domain(member)].live


def local(site: Site, name: str) -> list[str]:
    return [one for one in site.host.volumes if one.startswith(local_volumes(PREFIX, name))]


def scripts(site: Site, name: str) -> list[str]:
    return [command for command in site.guest.commands(name) if command.startswith("script:")]


def held(site: Site) -> dict[int, str | None]:
    return {one.slot: one.member for one in site.store.snapshot().drives}


def ask(site: Site, wish: Any, member: Member) -> None:
    wish(site.store, f"web/{member.name}")
    site.settle()


# ---- local storage -------------------------------------------------------------------------------------------


def test_every_machine_has_local_storage_that_is_mounted_before_the_steps(site: Site) -> None:
    steps = [{"run": "install web"}]
    site.apply(instances=1, local_storage=LOCAL, standby={"max_ready": 2}, setup={"steps": steps})
    site.settle()
    for member in site.members():
        assert disks(site, member) == set(local(site, member.name))
        assert site.guest.commands(member.name) == ["script: local-storage local /mnt/local", "install web"]


def test_a_new_body_keeps_local_storage_and_redeploy_does_not(site: Site) -> None:
    site.apply(instances=1, local_storage=LOCAL)
    site.settle()
    member = site.only()
    before = local(site, member.name)
    ask(site, requests.reimage, member)
    assert local(site, member.name) == before
    site.host.vanish(domain(member))
    site.settle_again()
    assert local(site, member.name) == before
    ask(site, requests.redeploy, member)
    (after,) = local(site, member.name)
    assert [after] != before
    assert disks(site, site.only()) == {after}
    ask(site, requests.reimage, member)
    assert local(site, member.name) == [after]
    assert set(site.host.disks.made.values()) == {1}


def test_a_failed_setup_keeps_local_storage_and_the_end_of_a_member_does_not(site: Site) -> None:
    site.apply(instances=1, local_storage=LOCAL)
    site.settle()
    member = site.only()
    before = local(site, member.name)
    requests.reimage(site.store, f"web/{member.name}")
    site.turn_until(lambda: site.phase(member.name) is Phase.CREATING)
    site.guest.hold(member.name)
    site.turn_until(lambda: site.guest.waiting[member.name] > 0)
    site.clock.advance(700)
    site.turn_until(lambda: site.phase(member.name) is Phase.FAILED and site.power(member) is Power.ABSENT)
    assert local(site, member.name) == before
    site.guest.let_go(member.name)
    site.clock.advance(60)
    site.settle()
    assert local(site, member.name) == before
    site.scale(0)
    site.settle()
    assert local(site, member.name) == []


def test_local_storage_of_a_machine_that_no_record_names_goes_with_it(site: Site) -> None:
    site.apply(instances=1, local_storage=LOCAL)
    site.settle()
    member = site.only()
    site.crash()
    with site.store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM members")
        connection.exec_driver_sql("UPDATE sets SET deleting = TRUE, generation = generation + 1")
    site.let_go(member.name)
    site.turn_until(lambda: site.journal.count("destroy_machine") > 0)
    site.turn_until(lambda: site.journal.count("remove_local_storage") > 0)
    assert site.power(member) is Power.ABSENT
    assert local(site, member.name) == []


# ---- drives --------------------------------------------------------------------------------------------------


def test_every_instance_has_a_drive_of_its_own_and_no_pool_member_has(site: Site) -> None:
    site.apply(instances=2, drives=DRIVES, standby={"max_ready": 3})
    site.settle()
    assert sorted(held(site).values(), key=str) == sorted(site.names(site.instances()[0].role))
    for member in site.instances():
        assert len(disks(site, member)) == 1
        assert scripts(site, member.name) == ["script: drive-data data /mnt/data"]
    (spare,) = site.pool()
    assert disks(site, spare) == set()
    assert len(site.events("drive_held")) == 2


@pytest.mark.parametrize("wish", [requests.reimage, requests.redeploy, requests.restart])
def test_an_instance_keeps_its_drive_whatever_is_asked_of_it(site: Site, wish: Any) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    ask(site, wish, site.only())
    assert disks(site, site.only()) == {DATA}
    assert site.host.disks.made[DATA] == 1


@pytest.mark.parametrize("state", ["running", "stopped", "hibernated"])
def test_a_claimed_member_has_its_drive_mounted_before_it_enters_rotation(site: Site, state: str) -> None:
    site.apply(instances=0, drives=DRIVES, standby={"state": state, "max_ready": 1})
    site.settle()
    (member,) = site.pool()
    site.guest.hold(member.name)
    site.scale(1)
    site.turn_until(lambda: site.guest.waiting[member.name] > 0)
    assert site.rotation() == set()
    site.guest.let_go(member.name)
    site.settle()
    assert disks(site, site.only()) == {DATA}
    assert scripts(site, member.name) == ["script: drive-data data /mnt/data"]
    assert site.rotation() == {member.name}
    boots = site.host.machines[domain(member)].boots
    assert boots == (2 if state == "stopped" else 1)


class DisksOfAnOldMachine(FakeDisks):
    """Nothing can be plugged into a machine that runs."""

    takes_disks_while_running = False


class HypervisorWithoutHotplug(FakeHypervisor):
    disks_type = DisksOfAnOldMachine


@pytest.mark.parametrize("state", ["running", "hibernated"])
def test_a_machine_that_takes_no_disk_while_it_runs_is_started_again(tmp_path: Path, state: str) -> None:
    with open_site(tmp_path, make_host=HypervisorWithoutHotplug) as site:
        site.apply(instances=0, drives=DRIVES, standby={"state": state, "max_ready": 1})
        site.settle()
        (member,) = site.pool()
        site.scale(1)
        site.settle()
        assert site.rotation() == {member.name}
        assert disks(site, site.only()) == {DATA}
        assert site.host.machines[domain(member)].boots == 2


class HypervisorSeenBeforeItAnswers(HypervisorWithoutHotplug):
    """The loop has seen that a machine is off before whoever switched it off hears that."""

    def shut_down_machine(self, domain: str, deadline: float, cancelled: Callable[[], bool]) -> bool:
        done = super().shut_down_machine(domain, deadline, cancelled)
        wait_until(cancelled, 10, "the loop has seen it")
        return done


def test_a_restart_for_drives_is_no_fault_of_the_machine(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HypervisorSeenBeforeItAnswers) as site:
        site.apply(instances=0, drives=DRIVES, standby={"state": "running", "max_ready": 1})
        site.settle()
        (member,) = site.pool()
        site.scale(1)
        site.settle()
        assert site.rotation() == {member.name}
        assert not [one for one in site.store.list_events(None) if "while it was waited for" in one.reason]
        assert site.only().failures == 0


def test_scale_in_frees_drives_and_scale_out_returns_them_before_it_makes_new_ones(site: Site) -> None:
    site.apply(instances=2, drives=DRIVES)
    site.settle()
    site.scale(0)
    site.settle()
    assert held(site) == {0: None, 1: None}
    site.scale(3)
    site.settle()
    assert set(held(site)) == {0, 1, 2}
    assert set(site.host.disks.made.values()) == {1}


def test_what_replaces_an_instance_gets_its_drive(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES, standby={"max_ready": 2})
    site.settle()
    first = site.instances()[0]
    requests.remove(site.store, f"web/{first.name}")
    site.scale(1)
    site.settle()
    (second,) = site.instances()
    assert second.name != first.name
    assert held(site) == {0: second.name}


def test_no_drive_is_free_while_its_machine_cannot_be_removed(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    first = site.only()
    site.host.go_silent()
    requests.remove(site.store, f"web/{first.name}")
    site.settle_stuck()
    assert held(site) == {0: first.name}


def test_after_a_start_only_drives_are_mounted_for_local_storage_may_be_of_a_later_model(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES, local_storage=LOCAL)
    site.settle()
    member = site.only()
    ask(site, requests.restart, member)
    assert scripts(site, member.name) == [
        "script: drive-data data /mnt/data local-storage local /mnt/local",
        "script: drive-data data /mnt/data",
    ]


def test_local_storage_declared_later_comes_with_the_next_body(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    member = site.only()
    ask(site, requests.stop, member)
    site.apply(instances=1, drives=DRIVES, local_storage=LOCAL)
    site.settle()
    assert local(site, member.name) == []
    ask(site, requests.start, member)
    assert disks(site, site.only()) == {DATA, *local(site, member.name)}
    assert site.only().incarnation == 2


def test_a_drive_declared_later_comes_with_the_next_body(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    member = site.only()
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    (after,) = site.members()
    assert (after.name, after.incarnation) == (member.name, 2)
    assert disks(site, after) == {DATA}


def test_a_changed_model_keeps_drives_and_local_storage_under_the_same_names(site: Site) -> None:
    site.apply(instances=2, drives=DRIVES, local_storage=LOCAL)
    site.settle()
    before = {one.name: (one.storage_since, local(site, one.name), disks(site, one)) for one in site.instances()}
    holders = held(site)
    site.apply(instances=2, drives=DRIVES, local_storage=LOCAL, setup={"steps": [{"run": "new"}]})
    site.settle()
    after = {one.name: (one.storage_since, local(site, one.name), disks(site, one)) for one in site.instances()}
    assert after == before
    assert held(site) == holders
    assert {(one.incarnation, one.model) for one in site.instances()} == {(2, site.wanted().model)}
    assert set(site.host.disks.made.values()) == {1}
    assert len(site.events("renewed")) == 2
    assert not site.events("retired")


@pytest.mark.parametrize("host", [FakeHypervisor, HypervisorWithoutHotplug])
@pytest.mark.parametrize("state", ["running", "stopped", "hibernated"])
def test_on_claim_finds_the_drives_mounted(tmp_path: Path, state: str, host: type[FakeHypervisor]) -> None:
    with open_site(tmp_path, make_host=host) as site:
        pool = {"state": state, "max_ready": 1}
        site.apply(instances=0, drives=DRIVES, standby=pool, hooks={"on_claim": ["use /mnt/data"]})
        site.settle()
        (member,) = site.pool()
        site.scale(1)
        site.settle()
        said = [one for one in site.guest.commands(member.name) if not one.startswith("date ")]
        mounting = "script: drive-data data /mnt/data"
        assert said == [mounting, "use /mnt/data", mounting]
        assert site.only().entered
        assert disks(site, site.only()) == {DATA}


class GuestThatCannotMount(FakeGuest):
    """Its drive holds something that is no file system."""

    def execute(self, member: str, command: str) -> None:
        if command.startswith("script:"):
            raise GuestError(f"in {member}, the disk drive-data holds no file system")


def test_a_drive_that_cannot_be_mounted_fails_the_member_and_not_the_hook(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestThatCannotMount) as site:
        pool = {"state": "running", "max_ready": 1}
        site.apply(instances=0, drives=DRIVES, standby=pool, hooks={"on_claim": ["use /mnt/data"]})
        site.settle()
        (member,) = site.pool()
        site.scale(1)
        site.turn_until(lambda: bool(site.events("failed")))
        assert "holds no file system" in site.events("failed")[0]
        assert not site.events("claim_failed")
        assert "use /mnt/data" not in site.guest.commands(member.name)


def test_what_fails_with_a_drive_is_counted_over_its_holders_and_given_up(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestThatCannotMount) as site:
        site.apply(instances=1, drives=DRIVES, standby={"state": "running", "max_ready": 4})
        site.turn_until(lambda: len(site.events("failed")) == 1)

        def gave_up() -> bool:
            site.clock.advance(10)
            return bool(site.events("gave_up"))

        site.turn_until(gave_up)
        assert len(site.events("failed")) == 5
        assert len(site.events("claim_served")) > 0
        assert held(site) == {0: site.instances()[0].name}
        site.settle_stuck()
        claims = len(site.events("claim_served"))
        for _ in range(30):
            site.clock.advance(100)
            site.controller.turn()
        assert (len(site.events("failed")), len(site.events("claim_served"))) == (5, claims)


def test_a_drive_whose_volume_is_lost_is_not_replaced_by_an_empty_one(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    member = site.only()
    del site.host.volumes[DATA]
    requests.reimage(site.store, f"web/{member.name}")
    site.turn_until(lambda: site.phase(member.name) is Phase.FAILED)
    assert "is missing" in site.only().reason
    assert DATA not in site.host.volumes


def test_a_file_that_was_made_for_no_drive_is_given_to_nobody_and_outlives_the_set(site: Site) -> None:
    site.host.volumes[DATA] = b"somebody's"
    site.host.strange.add(DATA)
    site.apply(instances=1, drives=DRIVES)
    site.turn_until(lambda: bool(site.events("failed")))
    assert "was not made for that drive; it is left alone" in site.only().reason
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None)
    (drive,) = wishes.give_up(site.store, "web", {"local"})
    site.host.disks.remove_drive(drive_disk(PREFIX, drive))
    assert site.host.volumes[DATA] == b"somebody's"


def test_a_drive_that_an_earlier_version_made_raw_is_not_replaced_by_an_empty_one(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    member = site.only()
    site.host.volumes[raw_volume(DATA)] = site.host.volumes.pop(DATA)
    requests.reimage(site.store, f"web/{member.name}")
    site.turn_until(lambda: site.phase(member.name) is Phase.FAILED)
    assert "is a raw disk, as an earlier version made them" in site.only().reason
    assert DATA not in site.host.volumes
    site.host.volumes[DATA] = site.host.volumes.pop(raw_volume(DATA))
    ask(site, requests.reimage, site.only())
    assert disks(site, site.only()) == {DATA}


def test_a_drive_that_no_machine_has_had_may_be_made_although_its_row_is_old(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.turn_until(lambda: bool(site.members()))
    site.apply(instances=1, drives=[{**DRIVES[0], "name": "logs"}])
    site.settle()
    assert DATA not in site.host.volumes
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    ask(site, requests.reimage, site.only())
    assert disks(site, site.only()) == {DATA}


def test_a_drive_grows_when_its_machine_is_started_again(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    site.apply(instances=1, drives=[{**DRIVES[0], "size": "64MiB"}])
    site.settle()
    assert site.store.snapshot().drives[0].size == 64 * MIB
    assert site.host.disks.sizes[DATA] == 32 * MIB
    ask(site, requests.restart, site.only())
    assert site.host.disks.sizes[DATA] == 64 * MIB


# ---- wishes --------------------------------------------------------------------------------------------------


def test_nothing_gets_smaller(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES, local_storage=LOCAL)
    site.settle()
    before = site.store.snapshot()
    with pytest.raises(SpecError, match="drive 'data' of 16 MiB is smaller than the 32 MiB"):
        site.apply(instances=1, drives=[{**DRIVES[0], "size": "16MiB"}], local_storage=LOCAL)
    with pytest.raises(SpecError, match="local_storage of 16 MiB is smaller than the 32 MiB"):
        site.apply(instances=1, drives=DRIVES, local_storage={**LOCAL, "size": "16MiB"})
    assert site.store.snapshot() == before


def test_a_smaller_drive_is_refused_also_for_what_a_deleted_set_left(site: Site) -> None:
    delete(site)
    with pytest.raises(SpecError, match="is smaller than"):
        site.apply(instances=1, drives=[{**DRIVES[0], "size": "16MiB"}])


def delete(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None)


def test_a_set_declared_again_gets_its_drives_back(site: Site) -> None:
    delete(site)
    assert DATA in site.host.volumes
    (words,) = wishes.left_drives(site.store)
    assert words.startswith("web: 1 drive (32 MiB) kept")
    with pytest.raises(NotFound, match="its drives are left"):
        declare.delete(site.store, "web")
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    assert held(site) == {0: site.only().name}
    assert site.host.disks.made[DATA] == 1


def test_given_up_drives_are_taken_by_nobody_and_then_forgotten(site: Site) -> None:
    delete(site)
    assert wishes.is_only_drives(site.store, "web")
    (drive,) = wishes.give_up(site.store, "web", {"local"})
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    assert held(site) == {0: None, 1: site.only().name}
    wishes.forget(site.store, drive)
    assert set(held(site)) == {1}


def test_a_drive_that_is_held_or_out_of_reach_is_not_given_up(site: Site) -> None:
    site.apply(instances=1, drives=DRIVES)
    site.settle()
    with pytest.raises(Conflict, match="is held by"):
        wishes.give_up(site.store, "web", {"local"})
    site.scale(0)
    site.settle()
    with pytest.raises(HostError, match="is not configured any more"):
        wishes.give_up(site.store, "web", set())
    assert not any(one.is_deleting for one in site.store.snapshot().drives)


def test_only_what_was_given_up_is_forgotten(site: Site) -> None:
    delete(site)
    (drive,) = wishes.drives_of(site.store, "web")
    wishes.forget(site.store, drive)
    assert set(held(site)) == {0}


def test_redeploy_is_asked_like_reimage(site: Site) -> None:
    site.apply(instances=1, standby={"max_ready": 2})
    site.settle()
    with pytest.raises(Conflict, match="only instances are redeployed"):
        requests.redeploy(site.store, f"web/{site.pool()[0].name}")
    (member,) = site.instances()
    requests.redeploy(site.store, f"web/{member.name}")
    assert site.member(member.name).request is Request.REDEPLOY
