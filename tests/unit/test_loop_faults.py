"""The loop when something goes wrong: what is healed, what is waited for, what is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import HostUnreachable, StoreError
from orchestrator.models.machine import Blueprint
from orchestrator.models.members import Phase, Role
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Power, Rotation
from orchestrator.service import declare
from orchestrator.service import members as requests
from orchestrator.store import Lease, Store
from tests.builders import PREFIX, make_spec
from tests.fakes import (
    FakeHypervisor,
    FakeMachine,
    GuestThatNeverBoots,
    GuestWithFailingSetup,
    HypervisorThatCannotDestroy,
    HypervisorThatHangs,
    HypervisorThatLosesAnswers,
    ScriptedGuest,
    all_domains,
)
from tests.unit.loop import PATIENCE, Site, open_site, running

STOPPED = {"state": "stopped", "max_ready": 4}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def domain(name: str) -> str:
    return domain_name(PREFIX, name)


class StoreThatCannotNote(Store):
    """Everything but events of work under way can be written."""

    def note(self, set_name: str, member: str, kind: str, reason: str) -> None:
        raise StoreError("cannot use the store: database or disk is full")


def test_a_step_whose_output_cannot_be_recorded_is_no_worse_for_it(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        site.store = StoreThatCannotNote(site.store.database, site.clock.now)
        site.apply(instances=1, setup={"steps": [{"run": "one"}, {"run": "two"}]})
        site.settle()
        assert site.guest.commands(site.only().name) == ["one", "two"]
        assert site.events("step_started") == []


def test_a_success_that_cannot_be_recorded_is_no_failure_of_the_machine(site: Site) -> None:
    with site.store.database.write() as connection:
        refuse = "BEFORE UPDATE ON members WHEN NEW.phase = 'ready' BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER refusing {refuse}")
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.events("trouble")))
    assert site.events("trouble")[0].endswith("the store failed: disk is full")  # and no row of it
    assert (site.only().phase, site.only().failures) == (Phase.PROVISIONING, 0)
    with site.store.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER refusing")
    site.crash()
    site.settle()
    assert (site.only().incarnation, site.only().failures) == (1, 0)


# ---- machines that go away -----------------------------------------------------------------------------------


@pytest.mark.parametrize("blow", ["kill", "power_off"])
def test_an_instance_that_is_found_off_is_started_again_with_its_disk(site: Site, blow: str) -> None:
    site.apply(instances=2)
    site.settle()
    name = site.instances()[0].name
    files = site.host.files_of(domain(name))
    getattr(site.host, blow)(domain(name))
    site.turn_until(lambda: site.phase(name) is not Phase.IN_SERVICE)
    site.turn_until(lambda: site.phase(name) is Phase.IN_SERVICE)
    assert site.member(name).incarnation == 1
    assert site.host.files_of(domain(name)) == files
    assert site.journal.count("create_machine") == 2
    assert site.rotation() == site.names()


def test_an_instance_that_is_off_gets_no_traffic_while_it_comes_back(site: Site) -> None:
    site.apply(instances=2, readiness=[{"tcp": {"port": 80}}])
    site.settle()
    name = site.instances()[0].name
    site.guest.hold(name)
    site.host.kill(domain(name))
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    assert site.balancer.rotation(Rotation.MAINT) == {name}
    site.guest.let_go(name)
    site.turn_until(lambda: site.phase(name) is Phase.IN_SERVICE)


def test_an_instance_whose_machine_vanished_is_made_anew_under_its_name(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    before = site.only()
    site.host.vanish(domain(before.name))
    site.turn_until(lambda: site.only().incarnation == 2 and site.only().phase is Phase.IN_SERVICE)
    after = site.only()
    assert (after.name, after.address, after.mac) == (before.name, before.address, before.mac)
    assert all(".2." in name for name in site.host.files_of(domain(before.name)))


def test_a_pool_machine_that_crashed_is_made_anew(site: Site) -> None:
    site.apply(instances=0, standby={"state": "running", "max_ready": 1})
    site.settle()
    name = site.only().name
    site.host.kill(domain(name))
    site.turn_until(lambda: site.only().incarnation == 2 and site.only().phase is Phase.STANDBY)
    assert site.power(site.only()) is Power.RUNNING


def test_a_machine_that_dies_during_its_setup_is_interrupted_and_tried_again_later(site: Site) -> None:
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    site.host.kill(domain(name))
    assert "is crashed before its setup ended" in site.settle_stuck()
    assert (site.phase(name), site.only().failures) == (Phase.FAILED, 1)
    site.guest.let_go(name)
    site.clock.advance(30)
    site.settle()


# ---- guests that fail ----------------------------------------------------------------------------------------


def test_a_guest_whose_setup_fails_is_removed_and_says_why_with_its_console(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestWithFailingSetup) as site:
        site.apply(instances=1)
        stuck = site.settle_stuck()
        name = site.only().name
        assert "no package named wbe" in stuck
        assert f"console of {name}:" in stuck
        assert f"{domain(name)} booted" in stuck
        assert site.host.machines == {}
        assert site.host.files_of(domain(name)) == []
        assert "no package named wbe" in site.events("failed")[0]


def test_a_failed_machine_is_tried_again_after_its_pause_and_not_before(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestWithFailingSetup) as site:
        site.apply(instances=1)
        site.settle_stuck()
        site.clock.advance(29)
        for _ in range(3):
            site.controller.turn()
        assert site.only().phase is Phase.FAILED
        site.clock.advance(1)
        site.settle()
        assert (site.only().phase, site.only().incarnation, site.only().failures) == (Phase.IN_SERVICE, 2, 1)
        site.clock.advance(300)
        site.turn_until(lambda: site.only().failures == 0, "its failures are over")


def test_pauses_grow_while_setup_keeps_failing(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestThatNeverBoots) as site:
        site.apply(instances=1)
        for failures, pause in ((1, 30), (2, 60), (3, 120)):
            turn_until_failed(site, failures)
            site.settle_stuck()
            site.clock.advance(pause - 1)
            site.controller.turn()
            assert site.only().phase is Phase.FAILED
            site.clock.advance(1)


def turn_until_failed(site: Site, times: int) -> None:
    site.turn_until(lambda: bool(site.members()) and site.only().failures == times, f"failed {times} times")


def test_a_guest_that_never_becomes_ready_fails_with_what_did_not_answer(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestThatNeverBoots) as site:
        site.apply(instances=1)
        assert "does not answer in time" in site.settle_stuck()
        assert site.host.machines == {}


def test_the_setup_timeout_is_counted_on_the_clock(site: Site) -> None:
    site.apply(instances=1, setup={"timeout": "10min"})
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    site.clock.advance(599)
    site.controller.turn()
    assert site.phase(name) is Phase.PROVISIONING
    site.clock.advance(1)
    assert "does not answer in time" in site.settle_stuck()


def test_a_provisioning_step_that_fails_is_in_the_reason(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=ScriptedGuest) as site:
        assert isinstance(site.guest, ScriptedGuest)
        site.guest.errors["install web"] = ["disk quota exceeded"]
        site.apply(instances=1, setup={"steps": [{"run": "install web"}]})
        assert "'install web' ended with status 1: disk quota exceeded" in site.settle_stuck()


def test_applying_again_tries_a_failed_machine_at_once(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestWithFailingSetup) as site:
        site.apply(instances=1)
        site.settle_stuck()
        site.apply(instances=1)
        site.settle()
        assert site.only().phase is Phase.IN_SERVICE


def test_one_failing_machine_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestWithFailingSetup) as site:
        site.apply(instances=3)
        site.settle_stuck()
        phases = sorted(one.phase for one in site.instances())
        assert phases == [Phase.FAILED, Phase.IN_SERVICE, Phase.IN_SERVICE]


def test_an_instance_that_failed_once_is_tried_again_before_the_pool_is_touched(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestWithFailingSetup) as site:
        site.apply(instances=3, standby={"state": "stopped", "max_ready": 4})
        site.settle_stuck()
        site.clock.advance(31.0)
        site.settle()
        assert [one.phase for one in site.instances()] == [Phase.IN_SERVICE] * 3
        assert [one.phase for one in site.pool()] == [Phase.STANDBY]
        assert site.events("claim_served") == []
        assert site.host.machines.keys() == {domain(name) for name in site.names()}


def test_a_failed_machine_can_be_removed_without_waiting(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=GuestWithFailingSetup) as site:
        site.apply(instances=1)
        site.settle_stuck()
        site.scale(0)
        site.settle()
        assert site.members() == []


def test_a_fault_in_our_own_code_is_a_failure_of_one_machine(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HypervisorWithABug) as site:
        site.apply(instances=2)
        assert "internal error" in site.settle_stuck()
        assert sorted(one.phase for one in site.instances()) == [Phase.FAILED, Phase.IN_SERVICE]


class HypervisorWithABug(FakeHypervisor):
    """Its first creation raises what no driver should."""

    has_bug = True

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        if self.has_bug:
            self.has_bug = False
            raise ZeroDivisionError("division by zero")
        super().create_machine(blueprint, seed)


# ---- hosts ---------------------------------------------------------------------------------------------------


def test_nothing_on_a_silent_host_is_replaced_or_removed(site: Site) -> None:
    site.apply(instances=2, standby=STOPPED)
    site.settle()
    before, members = site.journal.entries(), site.members()
    site.host.go_silent()
    for _ in range(5):
        site.controller.turn()
        site.clock.advance(60)
    assert site.journal.entries() == before
    assert site.members() == members
    assert site.rotation() == site.names(Role.INSTANCE)
    assert "host local of" in site.wanted().stuck
    site.host.answer_again()
    site.settle()
    assert site.members() == members


def test_a_silent_host_does_not_stop_work_on_the_others(tmp_path: Path) -> None:
    with open_site(tmp_path, hosts=("one", "two")) as site:
        site.apply(instances=2)
        site.settle()
        site.hosts["one"].go_silent()
        site.scale(3)
        assert "host one of" in site.settle_stuck()
        assert [one.phase for one in site.instances()] == [Phase.IN_SERVICE] * 3
        assert len(site.hosts["two"].machines) == 2


def test_members_of_a_host_that_is_lost_for_good_can_be_let_go_of(tmp_path: Path) -> None:
    with open_site(tmp_path, hosts=("one", "two")) as site:
        site.apply(instances=2, standby=STOPPED, scale_in={"drain_timeout": "1s"})
        site.settle()
        lost = site.hosts["two"]
        kept = {one.name for one in site.members() if one.host == "one"}
        gone = sorted(site.names() - kept)
        site.crash()
        del site.hosts["two"]
        assert f"host two of {gone[0]} is not configured any more" in site.settle_stuck()
        assert site.names() == kept | set(gone)
        for name in gone:
            requests.remove(site.store, f"web/{name}")
        site.settle()
        assert {one.host for one in site.members()} == {"one"}
        assert kept <= site.names()
        told = {f"host two is not configured any more: what it has of {name} is left there" for name in gone}
        assert set(site.events("left_alone")) == told
        assert {domain(name) for name in gone} == lost.machines.keys()
        site.crash()
        site.hosts["two"] = lost
        site.settle_again()
        site.turn_until(lambda: not {domain(name) for name in gone} & lost.machines.keys(), "the leaks are gone")


def test_a_set_on_a_host_that_is_lost_for_good_can_be_deleted(tmp_path: Path) -> None:
    with open_site(tmp_path, hosts=("one", "two")) as site:
        site.apply(instances=2)
        site.settle()
        site.crash()
        del site.hosts["two"]
        declare.delete(site.store, "web")
        site.turn_until(lambda: site.store.find_set("web") is None, "the set is gone")
        assert site.members() == []


class HypervisorThatDropsItsFirstCreation(FakeHypervisor):
    """The connection breaks before anything is done."""

    dropped = False

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        if not self.dropped:
            self.dropped = True
            raise HostUnreachable(f"{self.name} does not answer: broken pipe")
        super().create_machine(blueprint, seed)


def test_a_host_that_falls_silent_under_a_creation_condemns_nobody(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HypervisorThatDropsItsFirstCreation) as site:
        site.apply(instances=1)
        site.turn_until(lambda: bool(site.events("trouble")))
        assert "broken pipe" in site.events("trouble")[0]
        assert (site.only().phase, site.only().failures) == (Phase.CREATING, 0)
        site.crash()
        site.settle()
        assert site.only().incarnation == 1


def test_a_change_whose_answer_was_lost_is_repeated_without_a_double(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HypervisorThatLosesAnswers) as site:
        site.apply(instances=1)
        site.turn_until(lambda: bool(site.events("trouble")))
        assert site.only().phase is Phase.CREATING
        site.crash()
        site.settle()
        assert all_domains(site.hosts.values()) == [domain(site.only().name)]
        assert (site.only().incarnation, site.only().failures) == (1, 0)


def test_a_removal_that_fails_is_tried_again_and_nothing_is_forgotten(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HypervisorThatCannotDestroy) as site:
        assert isinstance(site.host, HypervisorThatCannotDestroy)
        site.apply(instances=1)
        site.settle()
        site.scale(0)
        site.turn_until(lambda: bool(site.events("trouble")))
        assert "device or resource busy" in site.events("trouble")[0]
        assert site.only().phase is Phase.DELETING
        site.host.mended = True
        site.crash()
        site.settle()
        assert site.members() == []


def test_a_full_disk_fails_the_creation_and_leaves_nothing_behind(site: Site) -> None:
    site.host.fill_disk()
    site.apply(instances=1)
    assert "No space left on device" in site.settle_stuck()
    site.host.free_disk()
    site.clock.advance(30)
    site.settle()
    assert all(".2." in name for name in site.host.files_of(domain(site.only().name)))
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None)
    assert [name for name in site.host.volumes if "image" not in name] == []


def test_a_set_that_does_not_fit_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    # Three would fit into both hosts together, but one of them is cut in two.
    with open_site(tmp_path, hosts=("one", "two"), memory=192 * 2**20) as site:
        site.apply(instances=2)
        site.settle()
        site.apply(make_spec(name="api", instances=1, endpoints=[]))
        stuck = site.settle_stuck("api")
        full = "no host has 128 MiB of memory to give (largest room: 64 MiB)"
        assert stuck == f"zone a: {full}; zone b: {full}"
        assert site.members(name="api") == []
        site.scale(1)
        site.settle()
        site.settle("api")
        assert len(site.members(name="api")) == 1


def test_a_host_that_hangs_is_left_alone_and_the_others_go_on(tmp_path: Path) -> None:
    with open_site(tmp_path, HypervisorThatHangs, hosts=("one", "two")) as site:
        site.look_deadline = 0.2
        site.apply(instances=2, standby={"max_ready": 4})
        site.settle()
        two = site.hosts["two"]
        assert isinstance(two, HypervisorThatHangs)
        before, rotation = dict(two.machines), site.rotation()
        two.hang()
        try:
            site.scale(5)
            site.settle_stuck()
            assert {one.zone for one in site.instances() if one.name not in rotation} == {"a"}
            assert (
                "zone b is passed over: no host answers; host two has not answered"
                in site.events("claim_cold")[-1]
            )
            assert two.machines == before
            assert site.rotation() >= rotation
        finally:
            two.go_on()
        site.settle()
        assert two.machines.keys() <= before.keys()
        assert len(site.rotation()) == 5


def test_an_answer_from_before_the_records_changed_is_no_news(tmp_path: Path) -> None:
    with open_site(tmp_path, HypervisorThatHangs) as site:
        site.look_deadline = 0.2
        site.apply(instances=1)
        site.turn_until(lambda: bool(site.members()))
        name = site.only().name
        site.guest.hold(name)
        site.turn_until(lambda: site.guest.waiting[name] > 0)
        host = site.host
        assert isinstance(host, HypervisorThatHangs)
        host.power_off(domain(name))
        host.hang()
        try:
            site.controller.turn()  # sees it off, but does not say so in time
            host.start_machine(domain(name))
            site.guest.let_go(name)
            site.turn_until(lambda: site.phase(name) is Phase.READY)
        finally:
            host.go_on()
        site.settle()
        assert not site.events("starting")


def test_a_full_address_range_is_the_reason_and_stops_nothing_else(tmp_path: Path) -> None:
    with open_site(tmp_path, addresses="127.77.0.0/29") as site:  # five addresses
        site.apply(instances=2)
        site.settle()
        site.apply(make_spec(name="api", instances=9, endpoints=[]))
        assert "network.range" in site.settle_stuck("api")
        assert len(site.members(name="api")) == 3
        name = site.instances()[0].name
        site.host.kill(domain(name))
        site.turn_until(lambda: site.phase(name) is not Phase.IN_SERVICE)
        site.turn_until(lambda: site.phase(name) is Phase.IN_SERVICE)
        site.scale(1)
        site.settle()
        site.turn_until(lambda: len(site.members(name="api")) == 4)


def test_a_pool_machine_that_had_to_be_forced_off_is_not_kept_as_it_is(site: Site) -> None:
    """Its disk may be half written."""
    site.apply(instances=0, standby={"state": "stopped", "max_ready": 1})
    site.turn_until(lambda: bool(site.host.machines))
    name = site.only().name
    site.host.deafen(domain(name))
    assert "did not shut down by itself" in site.settle_stuck()
    assert (site.only().phase, site.host.machines) == (Phase.FAILED, {})


def test_an_image_file_that_was_changed_is_not_used(site: Site) -> None:
    (file,) = site.folder.glob("*.qcow2")
    file.write_bytes(b"something else")
    site.apply(instances=1)
    assert "is not what was imported" in site.settle_stuck()
    assert site.host.machines == {}


# ---- leaks and others ----------------------------------------------------------------------------------------


def leave_a_leak(site: Site, member: str) -> None:
    """A machine of ours whose member was let go."""
    site.let_go(member)
    site.apply(instances=1)
    site.settle()
    made = next(iter(site.host.machines.values())).blueprint
    site.host.create_machine(replace(made, domain=domain(member), member=member), None)


def test_a_machine_of_ours_without_a_record_is_removed_on_the_second_look(site: Site) -> None:
    leave_a_leak(site, "web-leak1")
    pause = site.controller.turn()
    assert pause <= 1.0
    assert site.host.power(domain("web-leak1")) is Power.RUNNING
    site.turn_until(lambda: site.host.power(domain("web-leak1")) is Power.ABSENT, "the leak is gone")
    assert site.host.files_of(domain("web-leak1")) == []
    assert site.only().phase is Phase.IN_SERVICE


def test_a_new_controller_looks_twice_too(site: Site) -> None:
    leave_a_leak(site, "web-leak1")
    for _ in range(3):
        site.controller.turn()
        site.crash()
    assert site.host.power(domain("web-leak1")) is Power.RUNNING


def test_machines_of_others_are_never_touched(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    ours = next(iter(site.host.machines.values())).blueprint
    theirs = replace(ours, domain=domain("web-theirs"), member="web-theirs", installation="another")
    site.host.machines[theirs.domain] = FakeMachine(theirs, None)
    for _ in range(4):
        site.controller.turn()
    assert site.host.power(theirs.domain) is Power.RUNNING


def test_a_name_that_belongs_to_somebody_elses_machine_is_left_alone(site: Site) -> None:
    site.host.foreign.add(domain("web-00001"))
    site.apply(instances=1)
    assert "is not ours; it is left alone" in site.settle_stuck()
    assert site.only().phase is Phase.FAILED


# ---- the balancer --------------------------------------------------------------------------------------------


def test_a_balancer_that_refuses_is_the_reason_the_set_is_stuck(site: Site) -> None:
    site.balancer.refuse("HAProxy is not installed")
    site.apply(instances=2)
    assert site.settle_stuck() == "HAProxy is not installed"
    assert [one.phase for one in site.instances()] == [Phase.READY] * 2


def test_a_balancer_that_works_again_completes_the_set(site: Site) -> None:
    site.balancer.refuse("HAProxy is not installed")
    site.apply(instances=1)
    site.settle_stuck()
    site.balancer.relent()
    site.clock.advance(2)
    site.settle()
    assert site.rotation() == site.names()


def test_a_balancer_that_refuses_is_not_asked_at_every_look(site: Site) -> None:
    site.balancer.refuse("HAProxy is not installed")
    site.apply(instances=1)
    site.settle_stuck()
    before = site.balancer.calls["converge"]
    for _ in range(5):
        site.controller.turn()
    assert site.balancer.calls["converge"] == before
    site.clock.advance(2)
    site.controller.turn()
    assert site.balancer.calls["converge"] == before + 1


def test_a_balancer_that_died_is_started_with_what_it_served(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    before = site.balancer.config
    site.balancer.die()
    site.turn_until(lambda: site.balancer.is_running)
    assert site.balancer.config == before


def test_a_drain_is_not_forgotten_when_the_balancer_dies(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    name = site.instances()[0].name
    site.balancer.sessions[name] = 3
    requests.reimage(site.store, f"web/{name}")
    site.turn_until(lambda: name in site.balancer.rotation(Rotation.DRAIN))
    site.balancer.die()
    site.turn_until(lambda: site.balancer.is_running)
    assert name not in site.rotation()


# ---- crashes and other controllers ---------------------------------------------------------------------------


def test_a_controller_that_is_replaced_after_every_turn_converges_without_doubles(site: Site) -> None:
    site.apply(instances=2, standby=STOPPED)
    turns = 0
    while not (site.is_settled("web") and not site.wanted().stuck):
        site.controller.turn()
        site.reached.wait(0.02)  # what a turn began gets a moment
        site.crash()
        turns += 1
        assert turns < 200, site.picture()
    assert (len(site.instances()), len(site.pool())) == (2, 2)
    assert all_domains(site.hosts.values()) == sorted(domain(name) for name in site.names())
    assert all(one.incarnation == 1 for one in site.members())


def test_work_that_is_cut_off_by_the_end_of_the_controller_is_taken_up_by_the_next(site: Site) -> None:
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    site.crash()
    assert (site.phase(name), site.only().failures) == (Phase.PROVISIONING, 0)
    site.guest.let_go(name)
    site.settle()
    assert (site.only().incarnation, site.journal.count("create_machine")) == (1, 1)


def test_the_end_of_a_controller_gives_the_lease_back(site: Site) -> None:
    other = Lease(site.store, holder="another-host:1:1")
    with running(site.make_controller()) as looked:
        assert looked.wait(PATIENCE)
        assert not other.take()
    assert other.take()


def test_a_controller_without_the_lease_does_nothing(site: Site) -> None:
    assert Lease(site.store, holder="another-host:1:1").take()
    site.apply(instances=1)
    with running(site.make_controller()) as looked:
        assert looked.wait(PATIENCE)
    assert site.members() == []
    assert site.host.calls["create_machine"] == 0


def test_a_controller_takes_over_when_the_other_ones_lease_runs_out(site: Site) -> None:
    Lease(site.store, holder="another-host:1:1").take()
    site.apply(instances=1)
    site.clock.advance(11)
    with running(site.make_controller()) as looked:
        give_up = time.monotonic() + PATIENCE
        while not site.is_settled("web"):
            assert time.monotonic() < give_up, site.picture()
            looked.wait(0.05)
            looked.clear()
    assert site.only().phase is Phase.IN_SERVICE


# ---- repairs -------------------------------------------------------------------------------------------------

PROBED: dict[str, Any] = {"readiness": [{"http": {"port": 80}, "interval": "1s", "failures": 3}]}


def test_an_instance_whose_services_stop_answering_is_restarted(site: Site) -> None:
    site.apply(instances=2, repair={"grace": "10s"}, **PROBED)
    site.settle()
    ill = site.instances()[0]
    site.clock.advance(11)
    site.balancer.down.add(ill.name)
    site.turn_until(lambda: site.member(ill.name).unhealthy_since is not None)
    assert site.journal.count("shut_down_machine") == 0
    site.clock.advance(15)
    site.turn_until(lambda: site.phase(ill.name) is Phase.STARTING, "it is restarted")
    site.balancer.down.clear()
    site.turn_until(lambda: site.phase(ill.name) is Phase.IN_SERVICE, "it serves again")
    assert (site.member(ill.name).incarnation, site.host.machines[domain(ill.name)].boots) == (1, 2)
    assert "does not pass its readiness checks; restarting it" in site.events("repairing")[0]


def test_a_command_that_fails_in_service_is_noticed_and_repaired(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=ScriptedGuest) as site:
        readiness = [{"command": "pg_isready", "failures": 1}]
        site.apply(instances=1, endpoints=[], readiness=readiness, repair={"grace": "0s"})
        site.settle()
        name = site.only().name
        site.guest.errors["pg_isready"] = ["no"] * 100  # type: ignore[attr-defined]
        site.controller.turn()
        site.clock.advance(11)
        site.turn_until(lambda: site.guest.waiting[name] == 0 and site.only().unhealthy_since is not None, "seen")
        site.clock.advance(15)
        site.turn_until(lambda: site.only().phase is Phase.STARTING, "it is restarted")
        site.guest.errors.clear()  # type: ignore[attr-defined]
        site.turn_until(lambda: site.only().phase is Phase.IN_SERVICE, "it serves")


def test_repairs_end_with_one_message_and_the_operators_word_begins_them_again(site: Site) -> None:
    site.apply(instances=1, repair={"grace": "0s"}, **PROBED)
    site.settle()
    name = site.only().name
    site.balancer.down.add(name)
    for tries in range(1, 6):
        site.turn_until(lambda: site.member(name).unhealthy_since is not None, "it is seen to be ill")
        site.clock.advance(700)
        site.turn_until(lambda tries=tries: site.member(name).failures == tries, f"repair {tries}")  # type: ignore[misc]
        site.turn_until(lambda: site.phase(name) is Phase.IN_SERVICE and site.member(name).request is None)
    site.turn_until(lambda: site.member(name).unhealthy_since is not None)
    site.clock.advance(700)
    assert site.settle_stuck() == f"gave up on {name} after 5 tries: {name} does not pass its readiness checks"
    assert len(site.events("gave_up")) == 1
    site.balancer.down.clear()
    site.apply(instances=1, repair={"grace": "0s"}, **PROBED)
    site.settle()
    assert site.only().failures == 0


def test_a_setup_that_restarts_gets_no_traffic_before_its_last_restart(site: Site) -> None:
    site.apply(instances=1, setup={"restarts": 2})
    site.turn_until(lambda: bool(site.members()) and site.only().phase is Phase.PROVISIONING)
    name = site.only().name
    for _ in range(2):
        for _ in range(3):
            site.controller.turn()
        assert (site.phase(name), site.balancer.rotation(Rotation.READY)) == (Phase.PROVISIONING, set())
        site.host.reboot(domain(name))
        before = site.only().restarts
        site.turn_until(lambda before=before: site.only().restarts == before + 1)  # type: ignore[misc]
    site.settle()
    assert site.only().phase is Phase.IN_SERVICE
