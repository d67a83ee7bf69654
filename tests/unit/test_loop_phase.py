"""The loop and the phase of guests: what they read, which hooks ran, what becomes of hooks that fail (row D2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import GuestError, HostUnreachable
from orchestrator.models.members import GuestPhase, Member, Phase, Role
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Power, Rotation
from orchestrator.service import members as requests
from tests.builders import PREFIX, make_spec
from tests.fakes import FakeHypervisor, FakeMachine, ScriptedGuest
from tests.unit.loop import Site, open_site

RUNNING = {"state": "running", "max_ready": 3}
HOOKS = {"on_claim": ["come"], "on_drain": ["go"]}


class ScriptedSiteGuest(ScriptedGuest):
    """`broken`: members in which every command fails; `deaf`: those that cannot be told their phase."""

    broken: frozenset[str] = frozenset()
    deaf: frozenset[str] = frozenset()

    def execute(self, member: str, command: str) -> None:
        if member in self.broken:
            raise GuestError(f"in {member}, {command!r} ended with status 1: not today")
        super().execute(member, command)

    def hear_phase(self, member: str) -> None:
        if member in self.deaf:
            raise GuestError(f"cannot log in to {member}")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path, make_guest=ScriptedSiteGuest) as made:
        yield made


def guest_of(site: Site) -> ScriptedSiteGuest:
    assert isinstance(site.guest, ScriptedSiteGuest)
    return site.guest


def machine(site: Site, member: Member) -> FakeMachine:
    return site.host.machines[domain_name(PREFIX, member.name)]


def reads(site: Site, role: Role) -> list[str]:
    return [machine(site, one).reads for one in site.members(role)]


def commands(site: Site) -> list[tuple[str, str]]:
    return [(shell.member, command) for shell in site.guest.shells for command in shell.commands]


def test_instances_and_reserve_read_where_they_are(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING)
    site.settle()
    assert reads(site, Role.INSTANCE) == ["in_service"]
    assert reads(site, Role.STANDBY) == ["standby"] * 2
    assert {one.told for one in site.pool()} == {GuestPhase.STANDBY}
    site.scale(2)
    site.settle()
    assert reads(site, Role.INSTANCE) == ["in_service"] * 2


@pytest.mark.parametrize("state", ["stopped", "hibernated"])
def test_a_parked_member_had_been_told_and_is_told_anew_after_its_start(site: Site, state: str) -> None:
    site.apply(instances=1, standby={"state": state, "max_ready": 2})
    site.settle()
    assert reads(site, Role.STANDBY) == ["standby"]
    assert {one.told for one in site.pool()} == {None}
    site.scale(2)
    site.settle()
    assert reads(site, Role.INSTANCE) == ["in_service"] * 2


def test_a_guest_that_restarts_by_itself_is_told_again(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING)
    site.settle()
    for one in site.members():
        site.host.reboot(domain_name(PREFIX, one.name))
    assert reads(site, Role.INSTANCE) == [""]
    site.turn_until(
        lambda: [*reads(site, Role.INSTANCE), *reads(site, Role.STANDBY)] == ["in_service", *["standby"] * 2]
    )


def test_a_set_without_our_keys_is_left_in_peace(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING, setup={"answer_file": "none"})
    site.settle()
    site.scale(0)
    site.settle()
    assert site.guest.shells == []
    assert site.events("told") == []


def test_on_claim_runs_once_in_each_instance_and_never_in_the_reserve(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING, hooks=HOOKS)
    site.settle()
    (cold,) = site.names(Role.INSTANCE)
    assert commands(site) == [(cold, "come")]
    site.scale(2)
    site.settle()
    (claimed,) = site.names(Role.INSTANCE) - {cold}
    assert commands(site) == [(cold, "come"), (claimed, "come")]
    assert site.rotation() == {cold, claimed}


def test_a_restart_drains_and_tells_but_is_no_new_claim(site: Site) -> None:
    site.apply(instances=1, hooks=HOOKS)
    site.settle()
    name = site.only().name
    requests.restart(site.store, f"web/{name}")
    site.settle()
    assert commands(site) == [(name, "come"), (name, "go")]
    assert machine(site, site.only()).boots == 2
    assert reads(site, Role.INSTANCE) == ["in_service"]


def test_a_reimage_is_a_new_body_and_claims_anew(site: Site) -> None:
    site.apply(instances=1, hooks=HOOKS)
    site.settle()
    name = site.only().name
    requests.reimage(site.store, f"web/{name}")
    site.settle()
    assert commands(site) == [(name, "come"), (name, "go"), (name, "come")]


def test_declaring_hooks_touches_no_machine_that_is_there(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    name = site.only().name
    site.apply(make_spec(instances=1, hooks=HOOKS))
    site.settle()
    requests.restart(site.store, f"web/{name}")
    site.settle()
    assert commands(site) == [(name, "go")]
    assert site.only().incarnation == 1


def test_an_instance_is_drained_while_its_hook_runs_and_goes_after_it(site: Site) -> None:
    site.apply(instances=1, hooks=HOOKS)
    site.settle()
    name = site.only().name
    site.guest.hold(name)
    site.scale(0)
    site.turn_until(lambda: site.guest.waiting[name] > 0, "the hook is under way")
    assert site.balancer.rotation(Rotation.DRAIN) == {name}
    assert (site.phase(name), site.power(site.only())) == (Phase.DRAINING, Power.RUNNING)
    site.guest.let_go(name)
    site.settle()
    assert (name, "go") in commands(site)
    assert site.members() == []


def test_a_hook_that_fails_at_a_drain_is_told_and_blocks_nothing(site: Site) -> None:
    site.apply(instances=1, hooks={"on_drain": ["go"]})
    site.settle()
    guest_of(site).errors["go"] = ["cannot flush"]
    name = site.only().name
    site.scale(0)
    site.settle()
    assert site.members() == []
    assert site.events("hook_failed") == [
        f"on_drain of {name} failed after 0.0 s: in {name}, 'go' ended with status 1: cannot flush"
    ]


def test_a_claim_whose_hook_fails_goes_to_the_next_member(site: Site) -> None:
    site.apply(instances=0, standby=RUNNING, hooks=HOOKS)
    site.settle()
    first, second = (one.name for one in sorted(site.pool(), key=lambda one: one.created_at)[:2])
    guest_of(site).broken = frozenset({first})
    site.scale(1)
    site.settle()
    assert site.names(Role.INSTANCE) == {second}
    assert first not in site.names()
    assert len(site.pool()) == 2
    (reason,) = site.events("claim_failed")
    assert reason == (
        f"{first} is not claimed: on_claim of {first} failed after 0.0 s: "
        f"in {first}, 'come' ended with status 1: not today"
    )
    assert site.rotation() == {second}


def test_where_no_member_can_be_claimed_the_set_goes_cold(site: Site) -> None:
    site.apply(instances=0, standby={"state": "running", "max_ready": 2}, hooks=HOOKS)
    site.settle()
    pool = site.names(Role.STANDBY)
    guest_of(site).broken = frozenset(pool)
    site.scale(1)
    site.settle()
    assert not site.names() & pool
    assert len(site.events("claim_failed")) == 2
    assert len(site.events("claim_cold")) == 1
    assert len(site.instances()) == 1


def test_an_instance_made_cold_whose_hook_fails_has_failed_and_is_tried_again(site: Site) -> None:
    guest_of(site).errors["come"] = ["not yet"]
    site.apply(instances=1, hooks=HOOKS)
    stuck = site.settle_stuck()
    assert "on_claim of web-00001 failed" in stuck
    assert site.rotation() == set()
    site.clock.advance(30)
    site.settle()
    assert site.only().incarnation == 2
    assert site.rotation() == {"web-00001"}


def test_a_guest_that_cannot_be_told_serves_all_the_same(site: Site) -> None:
    guest_of(site).deaf = frozenset({"web-00001", "web-00002"})
    site.apply(instances=1, standby={"state": "running", "max_ready": 2})
    site.settle()
    assert site.rotation() == {"web-00001"}
    assert site.events("tell_failed") == [
        "telling web-00001 that it is in service: cannot log in to web-00001",
        "telling web-00002 that it stands by: cannot log in to web-00002",
    ]
    assert site.phase("web-00002") is Phase.STANDBY


def test_a_guest_that_cannot_be_told_keeps_no_seed(site: Site) -> None:
    guest_of(site).deaf = frozenset({"web-00001", "web-00002"})
    site.apply(instances=1, standby={"state": "running", "max_ready": 2})
    site.settle()
    assert len(site.events("tell_failed")) == 2
    assert seeds(site) == []


class HostLostOverASeed(FakeHypervisor):
    is_lost = True

    def remove_seed(self, domain: str, incarnation: int) -> None:
        if self.is_lost:
            self.is_lost = False
            raise HostUnreachable("local does not answer: connection reset")
        super().remove_seed(domain, incarnation)


def test_a_seed_is_removed_though_its_host_was_lost_over_it(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HostLostOverASeed) as site:
        site.apply(instances=1)
        site.settle()
        assert seeds(site) == []
        assert site.events("tell_failed") == []


def seeds(site: Site) -> list[str]:
    return [name for name in site.host.volumes if name.endswith(".seed.iso")]


def test_a_controller_that_crashes_in_a_hook_runs_it_again_and_forgets_nothing(site: Site) -> None:
    site.apply(instances=1, standby={"state": "running", "max_ready": 2}, hooks=HOOKS)
    site.settle()
    (spare,) = site.names(Role.STANDBY)
    site.guest.hold(spare)
    site.scale(2)
    site.turn_until(lambda: site.guest.waiting[spare] > 0, "the claim is under way")
    site.crash()
    site.guest.let_go(spare)
    site.settle()
    assert [member for member, command in commands(site) if command == "come"].count(spare) == 1
    assert site.rotation() == site.names(Role.INSTANCE)
    assert not site.events("claim_failed")
