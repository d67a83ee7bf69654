"""The loop from wish to world: what the operator declares is what the fakes end up with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Conflict
from orchestrator.models.members import Phase, Role
from orchestrator.models.naming import domain_name, overlay_volume
from orchestrator.models.sightings import Power, Rotation
from orchestrator.service import declare
from orchestrator.service import members as requests
from tests.builders import PREFIX, make_spec
from tests.fakes import ScriptedGuest, all_domains, read_seed
from tests.unit.loop import Site, open_site

STOPPED = {"state": "stopped", "max_ready": 4}
HIBERNATED = {"state": "hibernated", "max_ready": 4}
RUNNING = {"state": "running", "max_ready": 4}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def domain(name: str) -> str:
    return domain_name(PREFIX, name)


# ---- from nothing --------------------------------------------------------------------------------------------


def test_applying_a_set_makes_its_instances_and_puts_them_into_rotation(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    assert [one.phase for one in site.instances()] == [Phase.IN_SERVICE] * 2
    assert [site.power(one) for one in site.instances()] == [Power.RUNNING] * 2
    assert site.rotation() == site.names()
    assert site.journal.count("create_machine") == 2


def test_a_converged_site_is_left_alone(site: Site) -> None:
    site.apply(instances=2, standby=STOPPED)
    site.settle()
    before = site.journal.entries()
    for _ in range(5):
        assert site.controller.turn() > 0
    assert site.journal.entries() == before


def test_a_machine_enters_rotation_only_after_its_setup_and_its_services(tmp_path: Path) -> None:
    with open_site(tmp_path, make_guest=ScriptedGuest) as site:
        steps = [{"run": "install web"}, {"run": "start web"}]
        site.apply(instances=1, setup={"steps": steps}, readiness=[{"command": "is-up web"}])
        site.turn_until(lambda: bool(site.members()))
        name = site.only().name
        site.guest.hold(name)
        site.turn_until(lambda: site.phase(name) is Phase.PROVISIONING and site.guest.waiting[name] > 0)
        assert site.rotation() == set()
        site.guest.let_go(name)
        site.settle()
        assert site.guest.commands(name) == ["install web", "start web"]
        assert all(shell.is_closed for shell in site.guest.shells)
        assert site.rotation() == {name}


def test_every_machine_has_its_own_identity(site: Site) -> None:
    site.apply(instances=3)
    site.settle()
    machines = list(site.host.machines.values())
    seeds = [read_seed(machine.seed) for machine in machines]
    assert len({machine.blueprint.uuid for machine in machines}) == 3
    assert len({machine.blueprint.nic.mac for machine in machines}) == 3
    assert len({machine.blueprint.nic.address for machine in machines}) == 3
    assert len({seed["vendor-data"] for seed in seeds}) == 3
    assert all(len(seed) == 4 for seed in seeds)


def test_a_set_of_none_is_as_declared_with_a_listening_balancer(site: Site) -> None:
    site.apply(instances=0)
    site.settle()
    assert site.balancer.is_running
    assert site.members() == []


# ---- the standby pool ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "power"),
    [(STOPPED, Power.STOPPED), (RUNNING, Power.RUNNING), (HIBERNATED, Power.HIBERNATED)],
)
def test_the_pool_is_parked_in_its_declared_state_after_its_setup(
    site: Site, pool: dict[str, object], power: Power
) -> None:
    site.apply(instances=1, standby=pool)
    site.settle()
    assert [one.phase for one in site.pool()] == [Phase.STANDBY] * 3
    assert [site.power(one) for one in site.pool()] == [power] * 3
    assert {shell.member for shell in site.guest.shells} == site.names()
    assert site.rotation() == site.names(Role.INSTANCE)


def test_the_pool_is_only_filled_once_the_set_is_in_service(site: Site) -> None:
    site.apply(instances=2, standby=STOPPED)
    site.settle()
    created = [subject for _, subject in site.journal.entries("create_machine")]
    assert set(created[:2]) == {domain(name) for name in site.names(Role.INSTANCE)}


@pytest.mark.parametrize("pool", [STOPPED, RUNNING, HIBERNATED])
def test_growth_takes_the_very_machines_that_were_in_the_pool(site: Site, pool: dict[str, object]) -> None:
    site.apply(instances=1, standby=pool)
    site.settle()
    spares = site.pool()
    bodies = {one.name: site.host.machines[domain(one.name)] for one in spares}
    site.scale(3)
    site.settle()
    joined = [one for one in spares if one.name in site.names(Role.INSTANCE)]
    assert len(joined) == 2
    for one in joined:
        now = site.member(one.name)
        assert (now.incarnation, now.address, now.mac) == (one.incarnation, one.address, one.mac)
        assert site.host.machines[domain(one.name)] is bodies[one.name]
    assert site.rotation() == site.names(Role.INSTANCE)
    assert len(site.pool()) == 1
    assert len(site.events("claim_served")) == 2
    assert site.events("claim_cold") == ["creating an instance of web cold: the standby pool is empty"]


def claim_one(site: Site, pool: Mapping[str, object]) -> str:
    """The member of the pool that is claimed for a second instance, when the turn that claims it is over."""
    site.apply(instances=1, standby=pool)
    site.settle()
    spares = site.names(Role.STANDBY)
    site.scale(2)
    site.controller.turn()
    (claimed,) = site.names(Role.INSTANCE) & spares
    return claimed


@pytest.mark.parametrize("pool", [STOPPED, RUNNING, HIBERNATED])
def test_a_claim_is_begun_in_the_turn_that_claims(site: Site, pool: dict[str, object]) -> None:
    claimed = claim_one(site, pool)
    site.stand_by_until(lambda: site.power(site.member(claimed)) is Power.RUNNING, "it was started")
    if pool is RUNNING:
        site.stand_by_until(lambda: site.phase(claimed) is Phase.READY, "its services were asked")
    assert claimed not in site.rotation()
    site.settle()
    assert claimed in site.rotation()


def test_a_member_of_a_stopped_pool_is_booted_once_more_by_its_claim(site: Site) -> None:
    site.apply(instances=0, standby={"state": "stopped", "max_ready": 1})
    site.settle()
    name = site.only().name
    assert site.host.machines[domain(name)].boots == 1
    site.scale(1)
    site.settle()
    assert site.host.machines[domain(name)].boots == 2


def test_what_the_pool_cannot_give_is_made_cold_with_its_reason(site: Site) -> None:
    site.apply(instances=0, standby={"state": "stopped", "max_ready": 2})
    site.settle()
    site.scale(3)
    site.settle()
    assert len(site.events("claim_served")) == 2
    assert site.events("claim_cold") == ["creating an instance of web cold: the standby pool is exhausted"]


def test_a_pool_member_in_the_wrong_power_state_is_passed_over(site: Site) -> None:
    site.apply(instances=0, standby={"state": "stopped", "max_ready": 1})
    site.settle()
    name = site.only().name
    site.host.start_machine(domain(name))
    site.scale(1)
    site.controller.turn()
    assert "1 running instead of stopped" in site.events("claim_cold")[0]


def test_scale_in_refills_the_pool(site: Site) -> None:
    site.apply(instances=3, standby=STOPPED)
    site.settle()
    assert len(site.pool()) == 1
    site.scale(1)
    site.settle()
    assert [one.phase for one in site.pool()] == [Phase.STANDBY] * 3
    assert len(site.instances()) == 1


def test_the_pools_state_can_be_changed(site: Site) -> None:
    site.apply(instances=1, standby=STOPPED)
    site.settle()
    before = site.names(Role.STANDBY)
    for state, power in (
        ("running", Power.RUNNING),
        ("hibernated", Power.HIBERNATED),
        ("stopped", Power.STOPPED),
    ):
        declare.change_pool(site.store, "web", {"state": state}, site.surroundings())
        site.settle()
        assert [site.power(one) for one in site.pool()] == [power] * 3
    assert site.names(Role.STANDBY) == before


def test_a_mixed_pool_is_kept_in_its_shares_and_claimed_from_the_fastest(site: Site) -> None:
    site.apply(instances=0, standby={"max_ready": 4, "state": {"running": "25%", "hibernated": "75%"}})
    site.settle()
    powers = {one.name: site.power(one) for one in site.pool()}
    assert sorted(powers.values()) == [Power.HIBERNATED] * 3 + [Power.RUNNING]
    site.scale(1)
    site.settle()
    assert powers[site.instances()[0].name] is Power.RUNNING
    assert sorted(site.power(one) for one in site.pool()) == [Power.HIBERNATED] * 2 + [Power.RUNNING]


def test_a_claimed_member_that_was_hibernated_did_not_boot_again_and_is_told_the_time(site: Site) -> None:
    site.apply(instances=1, standby=HIBERNATED)
    site.settle()
    pool = site.names(Role.STANDBY)
    site.scale(2)
    site.settle()
    (claimed,) = pool & site.names(Role.INSTANCE)
    assert site.host.machines[domain(claimed)].boots == 1
    assert any(command.startswith("date -u -s @") for command in site.guest.commands(claimed))
    assert {one.parked for one in site.instances()} == {None}


def test_what_becomes_of_the_pool_is_told(site: Site) -> None:
    site.apply(instances=1, standby={"state": "stopped", "max_ready": 3})
    site.settle()
    site.scale(3)
    site.settle()
    site.scale(1)
    site.settle()
    told = [one.kind for one in site.store.list_events("web") if one.kind.startswith("pool_")]
    assert told == ["pool_full", "pool_exhausted", "pool_full"]


def test_a_pool_that_is_given_up_leaves_nothing_of_it(site: Site) -> None:
    site.apply(instances=1, standby=STOPPED)
    site.settle()
    declare.delete_pool(site.store, "web", site.surroundings())
    site.settle()
    assert site.pool() == []
    assert set(site.host.machines) == {domain(one.name) for one in site.instances()}


# ---- scale-in and removal ------------------------------------------------------------------------------------


def test_an_instance_is_drained_before_its_machine_goes(site: Site) -> None:
    site.apply(instances=2, scale_in={"policy": "newest", "drain_timeout": "30s"})
    site.settle()
    leaving = max(site.instances(), key=lambda one: (one.created_at, one.name)).name
    stays = (site.names() - {leaving}).pop()
    site.balancer.sessions.update({leaving: 2, stays: 1})
    site.scale(1)
    site.turn_until(lambda: site.balancer.rotation(Rotation.DRAIN) != set())
    (leaving,) = site.balancer.rotation(Rotation.DRAIN)
    site.balancer.sessions[leaving] = 2
    for _ in range(3):
        site.controller.turn()
    assert site.phase(leaving) is Phase.DRAINING
    assert site.journal.count("destroy_machine") == 0
    site.balancer.sessions[leaving] = 0
    site.settle()
    assert leaving not in site.names()
    drained = site.journal.position("server drain", f"web.http/{leaving}")
    assert drained < site.journal.position("destroy_machine", domain(leaving))


def test_sessions_that_do_not_end_hold_up_scale_in_no_longer_than_the_drain_timeout(site: Site) -> None:
    site.apply(instances=1, scale_in={"drain_timeout": "30s"})
    site.settle()
    name = site.only().name
    site.balancer.sessions[name] = 9
    site.scale(0)
    site.turn_until(lambda: site.phase(name) is Phase.DRAINING)
    site.clock.advance(29)
    for _ in range(3):
        site.controller.turn()
    assert site.phase(name) is Phase.DRAINING
    site.clock.advance(1)
    site.settle()
    assert site.members() == []


def test_a_removed_instance_makes_the_set_smaller(site: Site) -> None:
    site.apply(instances=3)
    site.settle()
    leaving = site.instances()[1].name
    requests.remove(site.store, f"web/{leaving}")
    site.settle()
    assert leaving not in site.names()
    assert (len(site.instances()), site.wanted().spec.instances) == (2, 2)


def test_a_removed_pool_member_is_replaced(site: Site) -> None:
    site.apply(instances=1, standby=STOPPED)
    site.settle()
    leaving = site.pool()[0].name
    requests.remove(site.store, f"web/{leaving}")
    site.settle()
    assert [one.phase for one in site.pool()] == [Phase.STANDBY] * 3
    assert leaving not in site.names()
    assert site.wanted().spec.instances == 1


def test_a_deleted_set_leaves_no_machine_no_volume_no_address_and_no_balancer(site: Site) -> None:
    site.apply(instances=2, standby=STOPPED)
    site.settle()
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None)
    site.controller.turn()
    assert site.host.machines == {}
    assert [name for name in site.host.volumes if "image" not in name] == []
    assert site.store.snapshot().members == ()
    assert not site.balancer.is_running
    assert site.events("set_deleted") == ["set web and all its machines are gone"]


def test_deleting_one_set_leaves_the_other_in_service(site: Site) -> None:
    site.apply(instances=1)
    site.apply(make_spec(name="api", instances=1, endpoints=[{"name": "http", "listen": 9090, "port": 80}]))
    site.settle()
    site.settle("api")
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None)
    site.controller.turn()
    (api,) = site.members(name="api")
    assert site.rotation() == {api.name}
    assert list(site.host.machines) == [domain(api.name)]


# ---- reimage and restart -------------------------------------------------------------------------------------


def test_a_reimage_keeps_name_and_address_and_throws_the_disk_away(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    before = site.only()
    overlay = overlay_volume(domain(before.name), 1)
    site.host.volumes[overlay] = b"what the guest wrote"
    old_seed = read_seed(site.host.machines[domain(before.name)].seed)
    requests.reimage(site.store, f"web/{before.name}")
    site.settle()
    after = site.only()
    assert (after.name, after.address, after.mac) == (before.name, before.address, before.mac)
    assert (after.incarnation, after.request, after.phase) == (2, None, Phase.IN_SERVICE)
    assert overlay not in site.host.volumes
    assert site.host.volumes[overlay_volume(domain(before.name), 2)] == b""
    new_seed = read_seed(site.host.machines[domain(before.name)].seed)
    assert new_seed["vendor-data"] != old_seed["vendor-data"]  # another host key
    assert new_seed["meta-data"] != old_seed["meta-data"]  # another instance-id, so that setup runs again
    assert site.rotation() == {before.name}


def test_a_reimage_is_drained_first(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    name = site.instances()[0].name
    site.balancer.sessions[name] = 1
    requests.reimage(site.store, f"web/{name}")
    site.turn_until(lambda: name in site.balancer.rotation(Rotation.DRAIN))
    site.controller.turn()
    assert site.host.machines[domain(name)].blueprint.incarnation == 1
    site.balancer.sessions[name] = 0
    site.settle()
    assert site.host.machines[domain(name)].blueprint.incarnation == 2


def test_a_restart_keeps_the_machine_and_its_disk(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    name = site.only().name
    overlay = overlay_volume(domain(name), 1)
    site.host.volumes[overlay] = b"what the guest wrote"
    requests.restart(site.store, f"web/{name}")
    site.settle()
    assert (site.only().incarnation, site.only().request, site.phase(name)) == (1, None, Phase.IN_SERVICE)
    assert site.host.machines[domain(name)].boots == 2
    assert site.host.volumes[overlay] == b"what the guest wrote"
    assert site.journal.count("shut_down_machine") == 1
    down = site.journal.position("server drain", f"web.http/{name}")
    assert down < site.journal.position("shut_down_machine", domain(name))


def test_a_guest_that_restarts_by_itself_is_out_of_rotation_until_its_services_answer(site: Site) -> None:
    site.apply(instances=2, readiness=[{"http": {"port": 80}}])
    site.settle()
    name = site.instances()[0].name
    site.guest.hold(name)
    site.host.reboot(domain(name))
    site.turn_until(lambda: site.phase(name) is Phase.STARTING and site.guest.waiting[name] > 0)
    assert name not in site.rotation()
    assert len(site.rotation()) == 1
    site.guest.let_go(name)
    site.turn_until(lambda: site.phase(name) is Phase.IN_SERVICE)
    assert name in site.rotation()
    assert site.member(name).incarnation == 1


def test_a_reimage_during_the_setup_interrupts_it_and_begins_anew(site: Site) -> None:
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    requests.reimage(site.store, f"web/{name}")
    site.turn_until(lambda: site.only().incarnation == 2 and site.guest.waiting[name] > 0)
    site.guest.let_go(name)
    site.settle()
    assert (site.only().incarnation, site.only().failures) == (2, 0)


def test_a_removal_during_the_setup_interrupts_it(site: Site) -> None:
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    requests.remove(site.store, f"web/{name}")
    site.settle()
    assert site.members() == []
    assert site.host.machines == {}


def test_a_model_that_changes_during_the_setup_begins_anew(site: Site) -> None:
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    site.turn_until(lambda: site.guest.waiting[name] > 0)
    site.apply(instances=1, machine={"memory": "256MiB"})
    site.turn_until(lambda: site.only().incarnation == 2 and site.guest.waiting[name] > 0)
    site.guest.let_go(name)
    site.settle()
    assert site.host.machines[domain(name)].blueprint.memory == 256 * 2**20
    assert site.only().model == site.wanted().model


# ---- several hosts -------------------------------------------------------------------------------------------


def test_instances_are_spread_over_hosts(tmp_path: Path) -> None:
    with open_site(tmp_path, hosts=("one", "two")) as site:
        site.apply(instances=4)
        site.settle()
        assert {name: len(host.machines) for name, host in site.hosts.items()} == {"one": 2, "two": 2}
        assert len(set(all_domains(site.hosts.values()))) == 4


# ---- stop and start ------------------------------------------------------------------------------------------


def test_a_stopped_instance_stays_stopped_without_traffic_until_it_is_started(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    one, other = site.instances()
    requests.stop(site.store, f"web/{one.name}")
    site.settle()
    assert (site.phase(one.name), site.power(one)) == (Phase.STOPPED, Power.STOPPED)
    assert site.rotation() == {other.name}
    site.controller.turn()
    assert site.power(one) is Power.STOPPED
    requests.start(site.store, f"web/{one.name}")
    site.settle()
    assert site.rotation() == {one.name, other.name}
    assert site.host.machines[domain(one.name)].boots == 2


def test_what_is_not_stopped_cannot_be_started_and_what_is_cannot_be_stopped_again(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    target = f"web/{site.only().name}"
    with pytest.raises(Conflict, match="is not stopped"):
        requests.start(site.store, target)
    requests.stop(site.store, target)
    site.settle()
    with pytest.raises(Conflict, match="is stopped already"):
        requests.stop(site.store, target)


def test_a_stop_can_be_taken_back_while_the_instance_drains(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    one = site.only()
    requests.stop(site.store, f"web/{one.name}")
    requests.start(site.store, f"web/{one.name}")
    site.settle()
    assert site.rotation() == {one.name}
    assert site.host.machines[domain(one.name)].boots == 1


def test_an_instance_that_is_not_set_up_yet_cannot_be_stopped(site: Site) -> None:
    site.guest.hold("web-00001")
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()) and site.only().phase is Phase.PROVISIONING)
    with pytest.raises(Conflict, match="only an instance that is set up"):
        requests.stop(site.store, f"web/{site.only().name}")


@pytest.mark.parametrize("pool", [STOPPED, HIBERNATED])
def test_a_machine_that_was_started_is_waited_for_before_the_next_look(site: Site, pool: dict[str, Any]) -> None:
    claimed = claim_one(site, pool)
    site.stand_by_until(lambda: site.phase(claimed) is Phase.READY, "its services answer")


def test_a_machine_that_was_started_while_its_controller_stops_is_left_to_the_next(site: Site) -> None:
    claimed = claim_one(site, STOPPED)
    site.crash()
    site.turn_until(lambda: claimed in site.rotation(), "it serves")
