"""The loop when files are deleted and names taken behind its back, and when a guest restarts over and over or does
not come up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.members import Phase, Role
from orchestrator.models.naming import domain_name, image_volume, overlay_volume
from orchestrator.models.sightings import Observed
from orchestrator.models.steps import EffectKind, Resume
from orchestrator.planner import Desired, plan
from orchestrator.service import members as requests
from tests.builders import PREFIX
from tests.fakes import FakeHypervisor
from tests.unit.loop import PATIENCE, Site, open_site

STOPPED = {"state": "stopped", "max_ready": 2}
PROBED: dict[str, Any] = {"readiness": [{"http": {"port": 80}, "interval": "1s", "failures": 3}]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def domain(name: str) -> str:
    return domain_name(PREFIX, name)


def lose_disk(site: Site, name: str) -> None:
    site.host.lose(overlay_volume(domain(name), site.member(name).incarnation))


def lose_base(site: Site, name: str) -> None:
    site.host.lose(image_volume(PREFIX, site.member(name).image_digest))


def test_an_instance_whose_disk_was_deleted_is_made_anew_and_says_why(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    name = site.only().name
    lose_disk(site, name)
    site.host.kill(domain(name))
    site.turn_until(lambda: site.only().incarnation == 2 and site.only().phase is Phase.IN_SERVICE)
    (words,) = [words for words in site.events("creating") if "disk is gone" in words]
    assert words.endswith("making a new one from the image")
    assert site.only().failures == 2  # to start it did not help, and then to make it anew


def turn_until_body_serves(site: Site, body: int) -> None:
    site.turn_until(lambda: site.only().incarnation == body and site.only().phase is Phase.IN_SERVICE)


def test_a_disk_that_is_deleted_again_and_again_is_followed_by_pauses(site: Site) -> None:
    site.apply(instances=1, repair={"grace": "1h"})
    site.settle()
    name = site.only().name
    for body in (1, 2):
        turn_until_body_serves(site, body)
        lose_disk(site, name)
        site.host.kill(domain(name))
        site.clock.advance(600)
    site.turn_until(lambda: site.only().phase is Phase.FAILED, "it waits")
    assert "disk is gone" in site.settle_stuck()


def test_a_pool_member_whose_disk_was_deleted_is_passed_over_when_it_is_claimed(site: Site) -> None:
    site.apply(instances=1, standby={"state": "stopped", "max_ready": 2})
    site.settle()
    (spare,) = site.pool()
    lose_disk(site, spare.name)
    site.scale(2)
    site.settle()
    assert spare.name not in site.names()
    assert len(site.instances()) == 2
    assert "is not claimed: " in site.events("claim_failed")[0]


def test_a_base_disk_that_was_deleted_is_brought_again_and_the_machine_keeps_its_own(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    name = site.only().name
    lose_base(site, name)
    site.host.kill(domain(name))
    site.settle_again()
    assert (site.only().phase, site.only().incarnation) == (Phase.IN_SERVICE, 1)


def test_where_the_whole_pool_is_gone_nothing_is_made_anew(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    name = site.only().name
    lose_disk(site, name)
    lose_base(site, name)
    site.host.kill(domain(name))
    assert "neither its disk nor its base is there" in site.settle_stuck()
    assert (site.only().phase, site.only().incarnation) == (Phase.STARTING, 1)


def test_a_machine_paused_by_a_full_disk_goes_on_when_there_is_room_and_is_not_repaired(site: Site) -> None:
    site.apply(instances=1, repair={"grace": "0s"}, **PROBED)
    site.settle()
    name = site.only().name
    site.host.fill_disk()
    site.host.halted.add(domain(name))
    site.balancer.down.add(name)
    assert site.settle_stuck() == f"{name} is paused: host local cannot write its disk"
    for _ in range(10):
        tried = site.journal.count("resume_machine")
        site.clock.advance(60)
        site.turn_until(lambda tried=tried: site.journal.count("resume_machine") > tried)  # type: ignore[misc]
    assert (site.phase(name), site.only().failures) == (Phase.IN_SERVICE, 0)
    tried = site.journal.count("resume_machine")
    site.controller.turn()
    assert site.journal.count("resume_machine") == tried  # not at every look
    site.host.free_disk()
    site.clock.advance(3)
    site.balancer.down.clear()
    site.turn_until(lambda: not site.host.halted)
    site.settle()
    assert (site.only().incarnation, site.journal.count("shut_down_machine")) == (1, 0)


class HypervisorWithAMachineThatHangs(FakeHypervisor):
    """Its QEMU answers neither a resume nor a removal until it is let go on; the host itself answers."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.hanging = ""
        self.released = threading.Event()

    def resume_machine(self, domain: str) -> None:
        self._hang(domain)
        super().resume_machine(domain)

    def destroy_machine(self, domain: str) -> None:
        self._hang(domain)
        super().destroy_machine(domain)

    def _hang(self, domain: str) -> None:
        if domain == self.hanging:
            assert self.released.wait(PATIENCE)


@pytest.mark.parametrize("is_leak", [True, False], ids=["a leak", "a paused machine"])
def test_a_machine_that_hangs_holds_up_no_other(tmp_path: Path, is_leak: bool) -> None:
    with open_site(tmp_path, make_host=HypervisorWithAMachineThatHangs) as site:
        assert isinstance(site.host, HypervisorWithAMachineThatHangs)
        site.apply(instances=1)
        site.settle()
        hung = domain(site.only().name)
        if is_leak:
            made = site.host.machines[hung].blueprint
            site.let_go("web-zzzzz")
            hung = domain("web-zzzzz")
            site.host.create_machine(replace(made, domain=hung, member="web-zzzzz"), None)
        else:
            site.host.fill_disk()
            site.host.halted.add(hung)
        site.host.hanging = hung
        try:
            site.controller.turn()
            site.controller.turn()
            site.host.free_disk()
            site.scale(3)
            site.turn_until(lambda: len(site.rotation()) == 3, "the others are made")
            assert hung in site.host.machines
        finally:
            site.host.released.set()
        site.turn_until(lambda: not site.host.halted and (hung in site.host.machines) is not is_leak)


def test_what_is_switched_off_just_now_is_not_told_to_go_on(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    member = site.only()
    site.host.halted.add(domain(member.name))
    observed = Observed({"local": site.host.observe()}, site.balancer.observe())
    desired = Desired((site.wanted(),), (member,), PREFIX)

    def resumed(busy: dict[str, EffectKind]) -> int:
        return sum(isinstance(step, Resume) for step in plan(desired, observed, busy, site.clock.now()).steps)

    assert resumed({}) == 1
    assert [resumed({member.name: kind}) for kind in (EffectKind.SHUT_DOWN, EffectKind.HIBERNATE)] == [0, 0]
    assert resumed({member.name: EffectKind.PROVISION}) == 1


def test_a_member_whose_name_somebody_else_has_taken_can_be_removed(site: Site) -> None:
    taken = domain("web-00001")
    site.host.foreign.add(taken)
    site.apply(instances=1)
    assert "is not ours; it is left alone" in site.settle_stuck()
    requests.remove(site.store, f"web/{site.only().name}")
    site.settle()
    assert site.members() == []
    assert taken in site.host.foreign
    assert "is not ours" in site.events("left_alone")[0]


def reboot(site: Site, name: str, tries: int) -> None:
    site.host.reboot(domain(name))
    site.turn_until(lambda: site.member(name).failures == tries, f"try {tries}")


def test_a_guest_that_restarts_over_and_over_is_held_back_longer_and_longer_and_given_up(site: Site) -> None:
    site.apply(instances=2, repair={"grace": "10min"}, **PROBED)
    site.settle()
    name = site.instances()[0].name
    for tries, pause in enumerate((0, 30, 60, 120), start=1):
        reboot(site, name, tries)
        if pause:
            site.clock.advance(pause - 1)
            for _ in range(3):
                site.controller.turn()
            assert (site.phase(name), name in site.rotation()) == (Phase.STARTING, False)
            site.clock.advance(1)
        # The guest may be being told so when it restarts again.
        site.turn_until(lambda: site.phase(name) is Phase.IN_SERVICE, f"it serves after try {tries}")
    reboot(site, name, 5)
    site.clock.advance(3600)
    words = f"gave up on {name} after 5 tries: the guest of {name} restarts over and over"
    site.turn_until(lambda: site.wanted().stuck == words, "it is given up")
    assert len(site.events("gave_up")) == 1
    assert (site.phase(name), site.member(name).incarnation) == (Phase.STARTING, 1)
    assert len(site.members(Role.INSTANCE)) == 2
    site.apply(instances=2, repair={"grace": "10min"}, **PROBED)
    site.settle()
    assert site.phase(name) is Phase.IN_SERVICE


# ---- who does not come up after a start ----------------------------------------------------------------------

SLOW: dict[str, Any] = {"setup": {"timeout": "10min"}, **PROBED}


def hang_at_next_boot(site: Site, action: str) -> str:
    """The only instance was in service, is restarted and does not come up in time."""
    site.apply(instances=1, repair={"action": action, "grace": "0s"}, **SLOW)
    site.settle()
    name = site.only().name
    site.guest.hold(name)
    requests.restart(site.store, f"web/{name}")
    site.turn_until(lambda: site.guest.waiting[name] > 0, "it is to be told that it is drained")
    site.clock.advance(60)
    time_out(site, name)
    return name


def time_out(site: Site, name: str) -> None:
    def is_waited_for() -> bool:
        return site.phase(name) is Phase.STARTING and site.guest.waiting[name] > 0

    site.turn_until(is_waited_for, "it is waited for")
    site.clock.advance(601)
    now = site.clock.now()
    site.turn_until(lambda: site.member(name).phase_since >= now, "its time is over")


def test_an_instance_that_does_not_come_up_is_restarted_and_given_up_with_its_disk(site: Site) -> None:
    name = hang_at_next_boot(site, "restart")
    assert "does not answer in time; it is given time before the next try" in site.settle_stuck()
    for tries, pause in enumerate((30, 30, 60, 120, 240), start=1):
        assert site.journal.count("start_machine") == tries
        site.clock.advance(pause)
        site.turn_until(lambda: site.journal.count("start_machine") == tries + 1, f"restart {tries}")  # noqa: B023
        time_out(site, name)
        assert site.member(name).failures == tries
    site.clock.advance(3600)
    words = f"gave up on {name} after 5 tries: "
    site.turn_until(lambda: site.wanted().stuck.startswith(words), "it is given up")
    assert len(site.events("gave_up")) == 1
    assert (site.only().incarnation, site.journal.count("create_machine")) == (1, 1)
    assert site.journal.count("destroy_machine") == 0
    assert name not in site.rotation()
    site.guest.let_go(name)
    site.apply(instances=1, repair={"action": "restart", "grace": "0s"}, **SLOW)
    site.settle()
    assert (site.only().phase, site.only().incarnation) == (Phase.IN_SERVICE, 1)


def test_where_repair_is_off_it_is_left_until_it_answers_after_all(site: Site) -> None:
    name = hang_at_next_boot(site, "none")
    assert "does not answer in time; repair is off" in site.settle_stuck()
    for _ in range(6):
        site.clock.advance(30)
        time_out(site, name)
    assert "repair is off" in site.settle_stuck()
    assert (site.journal.count("start_machine"), site.journal.count("destroy_machine")) == (1, 0)
    assert len(site.events("unhealthy")) == 1
    assert not site.events("gave_up")
    site.guest.let_go(name)
    site.clock.advance(30)
    site.settle()
    assert (site.only().phase, site.only().incarnation, site.only().failures) == (Phase.IN_SERVICE, 1, 0)


@pytest.mark.parametrize("action", ["restart", "none"])
def test_the_operator_may_restart_what_does_not_come_up(site: Site, action: str) -> None:
    name = hang_at_next_boot(site, action)
    site.settle_stuck()
    if action == "none":  # what is waited for is not waited for to the end
        site.clock.advance(30)
        site.turn_until(lambda: site.guest.waiting[name] > 0, "it is waited for again")
    requests.restart(site.store, f"web/{name}")
    site.turn_until(lambda: site.journal.count("start_machine") == 2, "it is restarted")
    site.guest.let_go(name)
    site.settle()
    assert (site.only().phase, site.only().incarnation) == (Phase.IN_SERVICE, 1)


def test_where_a_fault_costs_the_body_it_is_made_anew(site: Site) -> None:
    name = hang_at_next_boot(site, "reimage")
    site.turn_until(lambda: site.phase(name) is Phase.FAILED, "it has failed")
    site.guest.let_go(name)
    site.clock.advance(30)
    site.settle()
    assert (site.only().name, site.only().incarnation) == (name, 2)


# ---- who switches itself off while it starts -----------------------------------------------------------------


def go_off(site: Site, name: str, starts: int) -> None:
    """Its guest switches itself off again while it is waited for, after that many starts in all."""

    def is_waited_for() -> bool:
        is_starting = site.phase(name) is Phase.STARTING and site.journal.count("start_machine") == starts
        return is_starting and site.guest.waiting[name] > 0

    site.turn_until(is_waited_for, f"it is waited for after start {starts}")
    tries = site.member(name).failures
    site.host.power_off(domain(name))
    site.turn_until(
        lambda: site.member(name).failures > tries or site.member(name).unhealthy_since is not None,
        "it is noticed",
    )


def test_a_guest_that_switches_itself_off_in_every_boot_is_given_up_with_its_disk(site: Site) -> None:
    site.apply(instances=1, repair={"action": "restart", "grace": "0s"}, **SLOW)
    site.settle()
    name = site.only().name
    site.guest.hold(name)
    site.host.power_off(domain(name))
    go_off(site, name, starts=1)
    go_off(site, name, starts=2)
    assert "is stopped while it was waited for" in site.settle_stuck()
    for tries, pause in enumerate((120, 240, 480), start=3):
        site.clock.advance(pause)
        go_off(site, name, starts=tries)
        assert site.member(name).failures == tries
    site.clock.advance(3600)
    words = f"gave up on {name} after 5 tries: "
    site.turn_until(lambda: site.wanted().stuck.startswith(words), "it is given up")
    assert (site.only().incarnation, site.journal.count("destroy_machine")) == (1, 0)
    assert site.journal.count("start_machine") == 5


@pytest.mark.parametrize("action", ["restart", "reimage", "replace"])
def test_two_power_cuts_cost_nobody_its_machine(site: Site, action: str) -> None:
    site.apply(instances=3, repair={"action": action, "grace": "1h"}, **SLOW)
    site.settle()
    names = [member.name for member in site.members()]
    for name in names:
        site.guest.hold(name)
        site.host.power_off(domain(name))
    site.turn_until(lambda: all(site.guest.waiting[name] > 0 for name in names), "all start again")
    for name in names:
        site.host.power_off(domain(name))
    site.turn_until(lambda: site.journal.count("start_machine") == 6, "all are started once more")
    for name in names:
        site.guest.let_go(name)
    site.settle()
    assert site.journal.count("destroy_machine") == 0
    assert {member.incarnation for member in site.members()} == {1}


def test_a_claimed_guest_that_goes_off_before_its_hook_ran_is_no_endless_start(site: Site) -> None:
    pool = {"state": "stopped", "max_ready": 1}
    site.apply(instances=0, standby=pool, hooks={"on_claim": ["join"]}, **SLOW)
    site.settle()
    (member,) = site.pool()
    name = member.name
    site.guest.hold(name)
    site.scale(1)
    for starts in (1, 2, 3):
        site.turn_until(
            lambda: site.journal.count("start_machine") == starts and site.guest.waiting[name] > 0,  # noqa: B023
            f"it is about to run its hook after start {starts}",
        )
        site.host.power_off(domain(name))
    site.turn_until(lambda: site.member(name).phase is Phase.FAILED, "it has failed")
    assert site.member(name).failures == 3
