"""The loop with golden images: when one is taken, who goes on from it, and what happens where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import HostError
from orchestrator.models.machine import Blueprint
from orchestrator.models.members import GuestPhase, Phase
from orchestrator.models.naming import domain_name
from orchestrator.models.setup_result import RESULT_FILE
from orchestrator.models.sightings import Power
from orchestrator.service import declare
from orchestrator.service import members as requests
from tests.builders import PREFIX
from tests.fakes import FakeHypervisor, GuestThatNeverBoots, ScriptedGuest
from tests.unit.loop import Site, open_site
from tests.unit.test_loop_crash import CHANGES, HypervisorCutShort, is_over, judge

RUNNING = {"state": "running", "max_ready": 4}
RESULT = '{"v1": {"errors": []}}'
FORK_CHANGES = (*CHANGES, "fork_machine", "set_link", "take_golden", "remove_golden", "remove_seed")


class WithAgents:
    """Guests come with an agent that may run commands; `mute_forks`: those of forks do not. `late_agents`: it
    comes when the test brings it."""

    mute_forks = False
    late_agents = False

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        super().create_machine(blueprint, seed)  # type: ignore[misc]
        self.agents_may_run = True
        if self.late_agents:
            return
        self.agents.setdefault(blueprint.domain, {RESULT_FILE: RESULT})  # type: ignore[attr-defined]

    def fork_machine(self, blueprint: Blueprint) -> None:
        super().fork_machine(blueprint)  # type: ignore[misc]
        if self.mute_forks:
            self.agents.pop(blueprint.domain, None)  # type: ignore[attr-defined]


class HypervisorWithAgents(WithAgents, FakeHypervisor):
    pass


class CutShortWithAgents(WithAgents, HypervisorCutShort):
    changes = FORK_CHANGES


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_with_agents(tmp_path) as made:
        yield made


@contextmanager
def open_with_agents(folder: Path, **fields: Any) -> Iterator[Site]:
    with open_site(folder, make_host=HypervisorWithAgents, **fields) as made:
        yield made


def settle_with_golden(site: Site, name: str = "web") -> None:
    site.settle(name)
    model = site.wanted(name).model
    site.turn_until(lambda: any(model in words for words in site.events("golden_taken")), "one is taken")


def domain(name: str) -> str:
    return domain_name(PREFIX, name)


def is_fork(site: Site, name: str) -> bool:
    return site.host.machines[domain(name)].blueprint.forked


def test_the_first_member_boots_and_the_next_goes_on_from_it(site: Site) -> None:
    site.apply(instances=1)
    settle_with_golden(site)
    (first,) = site.instances()
    assert not is_fork(site, first.name)
    assert site.events("golden_taken") == [
        f"taking a golden image of model {site.wanted().model} from {first.name}: done"
    ]
    site.scale(3)
    site.settle()
    later = [one for one in site.instances() if one.name != first.name]
    assert [is_fork(site, one.name) for one in later] == [True, True]
    assert len(site.events("forked")) == 2
    assert site.rotation() == site.names()
    assert site.journal.count("take_golden") == 1


def test_a_fork_has_an_identity_of_its_own_before_it_has_a_network(site: Site) -> None:
    site.apply(instances=1, setup={"steps": [{"run": "install web"}]})
    settle_with_golden(site)
    site.scale(2)
    site.settle()
    new = next(one for one in site.instances() if is_fork(site, one.name))
    machine = site.host.machines[domain(new.name)]
    assert f"name={new.name}\n" in machine.told
    assert f"mac={new.mac}\n" in machine.told
    assert f"PRIVATE KEY OF {machine.blueprint.uuid}" in machine.told
    journal = site.journal.entries()
    link = journal.index(("set_link", domain(new.name)))
    forked = journal.index(("fork_machine", domain(new.name)))
    assert ("ask_agent", domain(new.name)) in journal[forked:link]
    # What setup did is in it already.
    assert site.guest.commands(new.name) == []


def test_a_refill_of_the_pool_is_made_of_forks_that_read_that_they_stand_by(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING)
    site.settle()
    pool = site.pool()
    assert [is_fork(site, one.name) for one in pool] == [True] * 3
    assert {site.host.machines[domain(one.name)].reads for one in pool} == {GuestPhase.STANDBY.value}
    assert site.journal.count("create_machine") == 1


@pytest.mark.parametrize("state", ["hibernated", "stopped"])
def test_forks_are_parked_like_everybody_and_come_back(site: Site, state: str) -> None:
    site.apply(instances=1, standby={"state": state, "max_ready": 3})
    site.settle()
    assert [is_fork(site, one.name) for one in site.pool()] == [True, True]
    assert {site.power(one).value for one in site.pool()} == {state}
    site.scale(3)
    site.settle()
    assert site.rotation() == site.names()
    assert len(site.instances()) == 3


def test_a_reimage_makes_a_fork(site: Site) -> None:
    site.apply(instances=1)
    settle_with_golden(site)
    name = site.only().name
    requests.reimage(site.store, f"web/{name}")
    site.settle()
    assert is_fork(site, name)
    assert site.only().incarnation == 2


def test_hooks_run_in_forks_as_in_machines_that_booted(tmp_path: Path) -> None:
    with open_with_agents(tmp_path, make_guest=ScriptedGuest) as site:
        site.apply(instances=1, standby=RUNNING, hooks={"on_claim": ["join"]})
        site.settle()
        site.scale(2)
        site.settle()
        assert {name: site.guest.commands(name) for name in (one.name for one in site.instances())} == {
            one.name: ["join"] for one in site.instances()
        }


def test_without_forks_everybody_boots(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING, setup={"fork": False})
    site.settle()
    site.scale(3)
    site.settle()
    assert site.journal.entries("fork_machine", "take_golden") == []


def test_that_forks_are_turned_off_changes_nothing_that_is_there(site: Site) -> None:
    site.apply(instances=1, standby=RUNNING)
    site.settle()
    before = {one.name: one.incarnation for one in site.members()}
    site.apply(instances=1, standby=RUNNING, setup={"fork": False})
    site.settle()
    assert {one.name: one.incarnation for one in site.members()} == before
    site.scale(5)
    site.settle()
    new = [one for one in site.members() if one.name not in before]
    assert new
    assert not any(is_fork(site, one.name) for one in new)


# ---- where it fails ------------------------------------------------------------------------------------------


def test_a_host_that_can_have_none_says_so_once_and_its_machines_boot(site: Site) -> None:
    site.host.why_no_golden = "its files cannot be reached"
    site.apply(instances=1)
    site.settle()
    site.turn_until(lambda: bool(site.events("golden_refused")), "it is refused")
    assert "its files cannot be reached" in site.events("golden_refused")[0]
    for _ in range(2):
        site.clock.advance(700)
        site.turn_until(lambda: site.journal.count("take_golden") > 1, "it is tried again")
        site.scale(len(site.instances()) + 1)
        site.settle()
    site.clock.advance(700)
    site.turn_until(lambda: site.journal.count("take_golden") == 3, "and again")
    site.turn_until(lambda: len(site.events("golden_refused")) == 2, "it is given up")
    site.clock.advance(5000)
    site.controller.turn()
    assert site.journal.count("take_golden") == 3
    assert "boot on local until it changes" in site.events("golden_refused")[-1]


def test_without_an_agent_that_may_run_commands_none_is_taken(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        site.apply(instances=1)
        site.settle()
        place = ("local", site.wanted().model)
        site.turn_until(lambda: place in site.store.snapshot().golden_troubles, "it was too early")
        site.clock.advance(10)
        site.turn_until(lambda: bool(site.events("golden_refused")), "it is refused")
        assert site.journal.count("take_golden") == 0


def test_an_agent_that_comes_after_its_guest_is_ready_costs_a_moment_and_no_word(site: Site) -> None:
    host = site.host
    assert isinstance(host, HypervisorWithAgents)
    host.late_agents = True
    site.apply(instances=1)
    site.settle()
    place = ("local", site.wanted().model)
    site.turn_until(lambda: place in site.store.snapshot().golden_troubles, "it was too early")
    host.agents[domain(site.only().name)] = {RESULT_FILE: RESULT}
    site.clock.advance(1)
    settle_with_golden(site)
    assert site.events("golden_refused") == []
    assert site.store.snapshot().golden_troubles == {}


def test_on_a_host_that_emulates_the_first_boot_and_the_others_are_told_that_they_wait(tmp_path: Path) -> None:
    with open_with_agents(tmp_path, parallel=8) as site:
        site.host.emulates, site.host.cpus = True, 2
        names = [f"web-{number:05}" for number in range(1, 7)]
        for name in names:
            site.guest.hold(name)
        site.apply(instances=6, readiness=[{"tcp": {"port": 80}}])
        site.turn_until(lambda: sum(site.guest.waiting.values()) == 2, "two boot")
        for _ in range(5):
            site.controller.turn()
        assert site.journal.count("create_machine") == 2
        (words,) = site.events("waits")
        assert words.startswith("not begun yet, 4 machines of web: waits for a CPU of host local")
        for name in names:
            site.guest.let_go(name)
        site.settle()
        assert [is_fork(site, name) for name in names].count(False) == site.journal.count("create_machine")
        assert site.rotation() == set(names)


@pytest.mark.parametrize("setup", [{"fork": False}, {}])
def test_on_a_host_that_emulates_all_are_made_though_none_is_a_fork(site: Site, setup: dict[str, Any]) -> None:
    site.host.emulates, site.host.cpus = True, 1
    site.host.why_no_golden = "its files cannot be reached"
    site.apply(instances=5, standby=RUNNING, setup=setup)
    site.settle()
    assert len(site.instances()) == 5
    assert not any(is_fork(site, one.name) for one in site.members())


def test_a_damaged_golden_image_means_a_boot_with_one_reason_and_a_new_image(site: Site) -> None:
    site.apply(instances=1)
    settle_with_golden(site)
    site.host.lose(next(name for name in site.host.volumes if name.endswith(".mem")))
    site.scale(3)
    site.settle()
    assert site.rotation() == site.names()
    # Of the forks; or, if the loop saw first that the image is gone, of a new one that cannot be taken at once.
    (reason,) = [*site.events("fork_refused"), *site.events("golden_refused")]
    assert "golden image" in reason
    assert not any(is_fork(site, one.name) for one in site.instances())
    assert all(one.failures == 0 for one in site.instances())
    site.clock.advance(60)
    settle_with_golden(site)
    site.scale(4)
    site.settle()
    assert [is_fork(site, one.name) for one in site.instances()].count(True) == 1


def test_a_fork_whose_agent_is_silent_is_discarded_and_boots(site: Site) -> None:
    site.apply(instances=1)
    settle_with_golden(site)
    assert isinstance(site.host, HypervisorWithAgents)
    site.host.mute_forks = True
    site.clock.hurry = 1.0
    site.scale(2)
    site.settle()
    (new,) = [one for one in site.instances() if one.incarnation == 2]
    assert not is_fork(site, new.name)
    (reason,) = site.events("fork_refused")
    assert f"{new.name} is no use as a fork" in reason
    assert ("set_link", domain(new.name)) not in site.journal.entries()


class HypervisorThatDropsLinks(HypervisorWithAgents):
    """The link of no fork comes up."""

    def set_link(self, domain: str, up: bool) -> None:
        raise HostError(f"cannot set the link of {domain!r}: it is not there")


def test_a_fork_without_a_link_is_discarded_and_boots(tmp_path: Path) -> None:
    with open_site(tmp_path, make_host=HypervisorThatDropsLinks) as site:
        site.apply(instances=1)
        settle_with_golden(site)
        site.scale(2)
        site.settle()
        assert not any(is_fork(site, one.name) for one in site.instances())
        assert len(site.events("fork_refused")) == 1


def test_a_fork_that_ends_before_it_is_somebody_is_made_anew(site: Site) -> None:
    site.apply(instances=1)
    settle_with_golden(site)
    name = "web-00002"
    site.guest.hold(name)
    site.apply(instances=2, readiness=[{"tcp": {"port": 80}}])
    site.turn_until(lambda: name in site.names() and site.guest.waiting[name] > 0, "its services are waited for")
    assert is_fork(site, name)
    site.host.kill(domain(name))
    site.guest.let_go(name)
    site.turn_until(lambda: site.phase(name) is Phase.FAILED, "it failed")
    site.clock.advance(60)
    site.settle()
    assert site.power(site.member(name)) is Power.RUNNING
    assert not is_fork(site, name)


# ---- leaving -------------------------------------------------------------------------------------------------


def test_a_deleted_set_leaves_no_golden_image(site: Site) -> None:
    site.apply(instances=2, standby=RUNNING)
    settle_with_golden(site)
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None, "the set is gone")
    assert site.host.goldens == {}
    assert [name for name in site.host.volumes if "golden" in name] == []


def test_a_changed_model_gets_its_own_and_the_old_one_goes_with_its_last_machine(site: Site) -> None:
    site.apply(instances=2)
    settle_with_golden(site)
    old = site.wanted().model
    site.apply(instances=2, machine={"memory": "256MiB"})
    site.settle()
    settle_with_golden(site)
    site.turn_until(lambda: old not in site.host.goldens, "the old one is gone")
    assert set(site.host.goldens) == {site.wanted().model}


# ---- crashes -------------------------------------------------------------------------------------------------


def scaled_out(site: Site) -> None:
    site.scale(3)


def filled(site: Site) -> None:
    site.apply(instances=1, standby={"state": "hibernated", "max_ready": 3})


def reimaged(site: Site) -> None:
    requests.reimage(site.store, f"web/{site.instances()[0].name}")


def deleted(site: Site) -> None:
    declare.delete(site.store, "web")


WISHES = {"apply": None, "scale out": scaled_out, "fill": filled, "reimage": reimaged, "delete": deleted}


@pytest.mark.parametrize("how", ["before", "half", "after"])
@pytest.mark.parametrize("wish", WISHES)
def test_cut_at_any_call_about_forks_the_next_controller_leaves_nothing_over(
    tmp_path: Path, wish: str, how: str
) -> None:
    for number in range(1, 60):
        folder = tmp_path / str(number)
        folder.mkdir()
        with open_site(folder, make_host=CutShortWithAgents) as site:
            if not is_cut(site, wish, number, how):
                assert number > 1
                return
    raise AssertionError(f"{wish} makes too many changes")


def is_cut(site: Site, wish: str, number: int, how: str) -> bool:
    """As in `test_loop_crash`."""
    host = site.host
    assert isinstance(host, CutShortWithAgents)
    carry_out = WISHES[wish]
    if carry_out is not None:
        site.apply(instances=1)
        settle_with_golden(site)
    before = site.names()
    host.arm(number, how)
    (carry_out or filled)(site)

    def is_done() -> bool:
        """A golden image is removed beside the record of the set that had it: it may go a moment later."""
        return is_over(site) and not (wish == "delete" and host.goldens)

    site.turn_until(lambda: host.was_cut or is_done(), "it is cut, or over")
    if host.was_cut:
        site.crash()
        site.turn_until(is_done, f"{wish} is over, cut {how} change {number}")
    judge(site, wish, set(), before)
    assert all(machine.is_linked for machine in host.machines.values())
    if wish == "delete":
        assert host.goldens == {}
    return host.was_cut


def test_a_guest_that_never_boots_is_no_source(tmp_path: Path) -> None:
    with open_with_agents(tmp_path, make_guest=GuestThatNeverBoots) as site:
        site.apply(instances=1, readiness=[{"tcp": {"port": 80}}])
        site.settle_stuck()
        assert site.journal.count("take_golden") == 0
