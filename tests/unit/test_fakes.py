"""The fakes keep the promises that other tests build on."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import (
    BalancerError,
    Conflict,
    GuestError,
    HostError,
    HostFull,
    HostUnreachable,
    Interrupted,
    NeverReady,
    NotFound,
    SetupFailed,
)
from orchestrator.models.balancing import BalancerConfig, Frontend, HealthCheck, Server
from orchestrator.models.machine import Blueprint, Nic, Subnet
from orchestrator.models.sightings import Power, Rotation
from orchestrator.models.spec import Probe, TcpProbe
from orchestrator.ports.balancer import Balancer
from orchestrator.ports.clock import Clock, Identities
from orchestrator.ports.guest import Guest, GuestAddress, GuestShell, Patience
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.ports.seed import SeedWriter
from tests.builders import INSTALLATION, MIB, make_image
from tests.fakes import (
    FakeBalancer,
    FakeClock,
    FakeGuest,
    FakeGuestShell,
    FakeHypervisor,
    FakeIdentities,
    FakeMachine,
    FakeSeedWriter,
    GuestThatNeverBoots,
    GuestWithFailingSetup,
    HypervisorThatCannotDestroy,
    HypervisorThatLosesAnswers,
    ScriptedGuest,
    image_file,
    read_seed,
)

DOMAIN = "understudy-web-1"
WHERE = GuestAddress("web-1", "127.77.0.2", 20022, lambda: "ssh-ed25519 AAAA")
TCP = Probe(tcp=TcpProbe(port=80))


def every_fake_is_what_it_stands_for(clock: FakeClock) -> None:
    """Checked by mypy, not run."""
    guest: Guest = FakeGuest(clock)
    ports: tuple[Hypervisor, Balancer, Clock, Identities, SeedWriter, Guest, GuestShell] = (
        FakeHypervisor(),
        FakeBalancer(),
        clock,
        FakeIdentities(),
        FakeSeedWriter(),
        guest,
        FakeGuestShell(FakeGuest(clock), "web-1", FakeMachine(blueprint(), None)),
    )
    assert ports


def blueprint(incarnation: int = 1, digest: str = "") -> Blueprint:
    return Blueprint(
        domain=DOMAIN,
        uuid=f"uuid-{incarnation}",
        member="web-1",
        set_name="web",
        installation=INSTALLATION,
        incarnation=incarnation,
        model="m",
        vcpus=1,
        memory=64 * MIB,
        disk=None,
        image=make_image(digest=digest),
        nic=Nic("52:54:00:00:00:01", "127.77.0.2"),
    )


def create(host: FakeHypervisor, folder: Path, seed: bytes | None = b"ssh-ed25519 AAAA") -> Blueprint:
    file, digest = image_file(folder)
    made = blueprint(digest=digest)
    host.ensure_image(made.image, file)
    host.create_machine(made, seed)
    return made


# ---- hypervisor ----------------------------------------------------------------------------------------------


def test_a_silent_host_answers_nothing_and_forgets_nothing(tmp_path: Path) -> None:
    host = FakeHypervisor()
    made = create(host, tmp_path)
    host.go_silent()
    assert not host.observe().answers
    for call in (
        lambda: host.create_machine(made, None),
        lambda: host.start_machine(DOMAIN),
        lambda: host.shut_down_machine(DOMAIN, 1, lambda: False),
        lambda: host.destroy_machine(DOMAIN),
        lambda: host.ensure_image(made.image, tmp_path),
        lambda: host.remove_image("d"),
        lambda: host.console_tail(DOMAIN, 1),
        lambda: host.describe_network("default"),
    ):
        with pytest.raises(HostUnreachable):
            call()
    host.answer_again()
    assert host.observe().machines[DOMAIN].power is Power.RUNNING


def test_a_full_disk_leaves_a_half_made_machine_that_the_next_body_clears_away(tmp_path: Path) -> None:
    host = FakeHypervisor()
    host.fill_disk()
    with pytest.raises(HostFull):
        create(host, tmp_path)
    assert host.files_of(DOMAIN) == [f"{DOMAIN}.1.qcow2"]
    host.free_disk()
    _, digest = image_file(tmp_path)
    host.create_machine(blueprint(2, digest), None)
    assert host.files_of(DOMAIN) == [f"{DOMAIN}.2.qcow2"]
    assert list(host.consoles) == [f"{DOMAIN}.2.console.log"]


def test_a_restart_of_the_guest_is_told_once(tmp_path: Path) -> None:
    host = FakeHypervisor()
    create(host, tmp_path)
    host.reboot(DOMAIN)
    assert host.observe().machines[DOMAIN].rebooted
    assert not host.observe().machines[DOMAIN].rebooted


def test_a_deaf_guest_is_forced_off_unless_the_work_is_cancelled(tmp_path: Path) -> None:
    host = FakeHypervisor()
    create(host, tmp_path)
    host.deafen(DOMAIN)
    with pytest.raises(Interrupted):
        host.shut_down_machine(DOMAIN, 60, lambda: True)
    assert host.power(DOMAIN) is Power.RUNNING
    assert not host.shut_down_machine(DOMAIN, 60, lambda: False)
    assert host.power(DOMAIN) is Power.STOPPED
    assert host.shut_down_machine(DOMAIN, 60, lambda: False)


def test_every_change_is_told_to_subscribers(tmp_path: Path) -> None:
    host = FakeHypervisor()
    create(host, tmp_path)
    told: list[str] = []
    host.subscribe(lambda: told.append("told"))
    for change in (host.kill, host.start_machine, host.power_off, host.reboot, host.vanish, host.destroy_machine):
        before = len(told)
        change(DOMAIN)
        assert len(told) > before, change.__name__


def test_machines_of_another_installation_are_neither_seen_nor_touched(tmp_path: Path) -> None:
    host = FakeHypervisor()
    create(host, tmp_path)
    machine = host.machines[DOMAIN]
    machine.blueprint = replace(machine.blueprint, installation="another")
    assert host.observe().machines == {}
    for call in (host.start_machine, host.destroy_machine):
        with pytest.raises(Conflict):
            call(DOMAIN)


def test_a_lost_answer_comes_after_the_deed(tmp_path: Path) -> None:
    host = HypervisorThatLosesAnswers()
    with pytest.raises(HostUnreachable):
        create(host, tmp_path)
    assert host.power(DOMAIN) is Power.RUNNING
    host.destroy_machine(DOMAIN)
    assert host.power(DOMAIN) is Power.ABSENT


def test_a_host_that_cannot_destroy_keeps_the_machine_until_it_is_mended(tmp_path: Path) -> None:
    host = HypervisorThatCannotDestroy()
    create(host, tmp_path)
    with pytest.raises(HostError):
        host.destroy_machine(DOMAIN)
    assert host.power(DOMAIN) is Power.RUNNING
    host.mended = True
    host.destroy_machine(DOMAIN)


def test_what_is_not_there_is_not_found() -> None:
    host = FakeHypervisor()
    with pytest.raises(NotFound):
        host.start_machine(DOMAIN)
    with pytest.raises(NotFound):
        host.describe_network("default")
    host.networks["default"] = Subnet("192.168.122.0/24", "192.168.122.1")
    with pytest.raises(NotFound, match="filter 'mine'"):
        host.describe_network("default", "mine")


# ---- balancer ------------------------------------------------------------------------------------------------


def config(state: Rotation = Rotation.READY) -> BalancerConfig:
    servers = (Server("web-1", "127.77.0.2", 20080, state),)
    return BalancerConfig((Frontend("web.http", "http", "127.0.0.1", 8080, HealthCheck(), servers),))


def test_a_balancer_that_refuses_goes_on_serving() -> None:
    balancer = FakeBalancer()
    balancer.converge(config())
    balancer.refuse("no")
    with pytest.raises(BalancerError):
        balancer.converge(config(Rotation.DRAIN))
    assert balancer.observe().digest == config().digest()
    balancer.relent()
    balancer.converge(config(Rotation.DRAIN))
    assert balancer.rotation(Rotation.DRAIN) == {"web-1"}


def test_a_balancer_that_died_serves_nothing() -> None:
    balancer = FakeBalancer()
    balancer.converge(config())
    balancer.die()
    assert not balancer.observe().running
    assert balancer.observe().servers == {}


def test_sessions_and_health_are_those_the_test_sets() -> None:
    balancer = FakeBalancer()
    balancer.converge(config())
    balancer.sessions["web-1"] = 3
    balancer.down.add("web-1")
    server = balancer.observe().servers["web.http", "web-1"]
    assert (server.sessions, server.is_up) == (3, False)


# ---- guest ---------------------------------------------------------------------------------------------------


def patience(clock: FakeClock, seconds: float = 60.0, cancelled: bool = False) -> Patience:
    return Patience(clock.monotonic() + seconds, lambda: cancelled)


def test_a_guest_of_a_running_machine_answers_at_once(tmp_path: Path) -> None:
    clock, host = FakeClock(), FakeHypervisor()
    guest = FakeGuest(clock, host)
    create(host, tmp_path)
    shell = guest.open_shell(WHERE, patience(clock))
    shell.await_setup(patience(clock))
    shell.run("true", patience(clock))
    shell.close()
    guest.await_answer(TCP, WHERE, 20080, patience(clock))
    assert guest.commands("web-1") == ["true"]


def test_a_guest_that_is_off_is_not_waited_for_beyond_the_deadline() -> None:
    clock = FakeClock()
    guest = FakeGuest(clock)
    clock.advance(60)
    with pytest.raises(NeverReady):
        guest.await_answer(TCP, WHERE, 20080, patience(clock, seconds=0))


def test_a_guest_that_is_waited_for_ends_the_wait_when_the_clock_passes_the_deadline() -> None:
    clock = FakeClock()
    guest = FakeGuest(clock)
    until, raised = patience(clock, seconds=60), threading.Event()

    def wait() -> None:
        with pytest.raises(NeverReady):
            guest.await_answer(TCP, WHERE, 20080, until)
        raised.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not raised.is_set()
    clock.advance(60)
    assert raised.wait(10)
    thread.join()


def test_a_cancelled_wait_ends_at_once() -> None:
    clock = FakeClock()
    with pytest.raises(Interrupted):
        FakeGuest(clock).open_shell(WHERE, patience(clock, cancelled=True))


def test_a_held_guest_answers_when_it_is_let_go(tmp_path: Path) -> None:
    clock, host = FakeClock(), FakeHypervisor()
    guest = FakeGuest(clock, host)
    create(host, tmp_path)
    guest.hold("web-1")
    with pytest.raises(Interrupted):
        guest.await_answer(TCP, WHERE, 20080, patience(clock, cancelled=True))
    guest.let_go("web-1")
    guest.await_answer(TCP, WHERE, 20080, patience(clock))


def test_a_guest_that_never_boots_comes_to_its_deadline_in_no_time(tmp_path: Path) -> None:
    clock, host = FakeClock(), FakeHypervisor()
    create(host, tmp_path)
    before = clock.monotonic()
    with pytest.raises(NeverReady):
        GuestThatNeverBoots(clock, host).open_shell(WHERE, patience(clock, seconds=600))
    assert clock.monotonic() == before


def test_failing_guests_fail_as_often_as_they_are_told(tmp_path: Path) -> None:
    clock, host = FakeClock(), FakeHypervisor()
    create(host, tmp_path)
    failing = GuestWithFailingSetup(clock, host).open_shell(WHERE, patience(clock))
    with pytest.raises(SetupFailed):
        failing.await_setup(patience(clock))
    failing.await_setup(patience(clock))
    scripted = ScriptedGuest(clock, host)
    scripted.errors["install"] = ["no"]
    shell = scripted.open_shell(WHERE, patience(clock))
    with pytest.raises(GuestError, match="'install' ended with status 1: no"):
        shell.run("install", patience(clock))
    shell.run("install", patience(clock))


def test_a_guest_shows_the_key_of_its_seed(tmp_path: Path) -> None:
    clock, host = FakeClock(), FakeHypervisor()
    create(host, tmp_path, seed=b"ssh-ed25519 BBBB")
    with pytest.raises(GuestError, match="another host key"):
        FakeGuest(clock, host).open_shell(WHERE, patience(clock))


# ---- clock, identities, seeds --------------------------------------------------------------------------------


def test_time_moves_only_when_it_is_told_to_and_both_clocks_together() -> None:
    clock = FakeClock()
    now, monotonic = clock.now(), clock.monotonic()
    assert (clock.now(), clock.monotonic()) == (now, monotonic)
    clock.advance(7)
    assert (clock.now() - now, clock.monotonic() - monotonic) == (7, 7)


def test_suffixes_are_those_given_then_numbers() -> None:
    identities = FakeIdentities("aaaaa", "aaaaa")
    assert [identities.member_suffix() for _ in range(4)] == ["aaaaa", "aaaaa", "00001", "00002"]


def test_a_host_key_belongs_to_its_machine() -> None:
    identities = FakeIdentities()
    assert identities.host_key("a") == FakeIdentities().host_key("a")
    assert identities.host_key("a") != identities.host_key("b")


def test_a_seed_can_be_read_again() -> None:
    assert read_seed(FakeSeedWriter().write("cidata", {"meta-data": b"a: b\n"})) == {"meta-data": "a: b\n"}
