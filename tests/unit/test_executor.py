"""One effect on one member, on the fakes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.apply.addressing import user_addressing
from orchestrator.apply.executor import Executor
from orchestrator.apply.world import Installation, World
from orchestrator.config.secrets import keep_secrets
from orchestrator.config.uploads import pack_uploads
from orchestrator.errors import (
    Conflict,
    ConnectionLost,
    GuestError,
    HostError,
    HostUnreachable,
    Interrupted,
    NeverReady,
    NotFound,
    SpecError,
)
from orchestrator.lifecycle.telling import can_be_told
from orchestrator.models.machine import Hardware
from orchestrator.models.members import Member, Phase, PoolState, ScaleSet, lost_image
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Effect, EffectKind
from tests.builders import INSTALLATION, MIB, make_image, make_member, make_set, make_spec
from tests.fakes import (
    FakeClock,
    FakeHypervisor,
    FakeIdentities,
    FakeSeedWriter,
    GuestThatNeverBoots,
    ScriptedGuest,
    image_file,
    read_seed,
)


@dataclass
class Bench:
    """An executor and what it works on."""

    executor: Executor
    host: FakeHypervisor
    guest: ScriptedGuest
    clock: FakeClock
    wanted: ScaleSet
    member: Member
    told: list[tuple[str, str]] = field(default_factory=list)

    def perform(self, kind: EffectKind, cancelled: bool = False) -> None:
        effect = Effect(kind, self.member, "a reason")
        self.executor.perform(effect, self.wanted, lambda: cancelled, self.hear)

    def hear(self, member: Member, kind: str, words: str) -> None:
        assert member == self.member
        self.told.append((kind, words))

    @property
    def domain(self) -> str:
        return f"understudy-{self.member.name}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def make_bench(
    folder: Path, kind: type[ScriptedGuest] = ScriptedGuest, host: FakeHypervisor | None = None, **fields: Any
) -> Bench:
    _, digest = image_file(folder)
    clock, host = FakeClock(), host or FakeHypervisor()
    guest = kind(clock, host)
    spec = pack_uploads(make_spec(**fields), folder)
    wanted = make_set(spec, image=make_image(digest=digest))
    installation = Installation(
        name=INSTALLATION,
        prefix="understudy",
        operator_key="ssh-ed25519 AAAAOperator understudy",
        images=folder,
        uploads=folder,
        secrets=folder / "secrets",
        addressing=user_addressing("127.77.0.0/16", outbound=False),
        agent_grace=0.0,
    )
    world = World({"local": host}, guest, FakeSeedWriter(), FakeIdentities(), clock)
    return Bench(Executor(installation, world), host, guest, clock, wanted, make_member(wanted))


@pytest.fixture
def bench(folder: Path) -> Iterator[Bench]:
    yield make_bench(folder)


def test_creating_makes_the_machine_as_declared(folder: Path) -> None:
    bench = make_bench(folder, machine={"memory": "256MiB", "vcpus": 2, "disk": "1GiB"})
    bench.perform(EffectKind.CREATE)
    made = bench.host.machines[bench.domain].blueprint
    assert (made.memory, made.vcpus, made.disk) == (256 * MIB, 2, 1024 * MIB)
    assert (made.member, made.set_name, made.incarnation, made.installation) == (
        "web-00001",
        "web",
        1,
        INSTALLATION,
    )
    assert (made.model, made.nic.address, made.nic.mac) == (
        bench.member.model,
        bench.member.address,
        bench.member.mac,
    )


def test_creating_brings_the_image_to_the_host(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    assert bench.host.volumes[f"understudy-image-{bench.wanted.image.digest}.qcow2"] == b"a base disk"


def test_of_an_image_that_is_recorded_no_more_no_machine_is_made(bench: Bench) -> None:
    bench.wanted = replace(bench.wanted, image=lost_image("micro", 1))
    with pytest.raises(Conflict, match=r"image 'micro:1' of set 'web' is recorded no more") as caught:
        bench.perform(EffectKind.CREATE)
    assert "understudy image list" in caught.value.fix
    assert bench.host.machines == {}


def test_creating_twice_makes_the_same_machine(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    first = bench.host.machines[bench.domain]
    bench.perform(EffectKind.CREATE)
    assert bench.host.machines[bench.domain] is first


def test_the_seed_says_who_the_machine_is(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    machine = bench.host.machines[bench.domain]
    seed = read_seed(machine.seed)
    assert f"instance-id: {machine.blueprint.uuid}" in seed["meta-data"]
    assert "local-hostname: web-00001" in seed["meta-data"]
    assert "ssh-ed25519 AAAAOperator understudy" in seed["meta-data"]
    assert f"PRIVATE KEY OF {machine.blueprint.uuid}" in seed["vendor-data"]


def test_a_machine_without_answer_file_has_no_seed_and_is_not_logged_in_to(folder: Path) -> None:
    bench = make_bench(folder, setup={"answer_file": "none"})
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    assert bench.host.machines[bench.domain].seed is None
    assert bench.guest.shells == []


def make_windows_bench(folder: Path, probes: Sequence[Any] = ({"tcp": {"port": 3389}},)) -> Bench:
    """A set of Windows machines whose password, `pw`, was applied."""
    (folder / "admin.txt").write_text("pw\n", encoding="utf-8")
    (folder / "admin.txt").chmod(0o600)
    (folder / "secrets").mkdir()
    setup = {
        "answer_file": "unattend",
        "windows": {"administrator_password_file": f"{folder}/admin.txt", "first_logon_commands": ["first"]},
    }
    machine = {"firmware": "uefi-secure", "disk_bus": "sata", "nic": "e1000e"}
    bench = make_bench(folder, setup=setup, machine=machine, readiness=list(probes))
    spec = keep_secrets(bench.wanted.spec, lambda password: f"digest-of-{password}", folder / "secrets")
    return replace(bench, wanted=replace(bench.wanted, spec=spec))


def test_a_windows_machine_has_its_answer_file_under_both_names_and_its_hardware(folder: Path) -> None:
    bench = make_windows_bench(folder)
    bench.perform(EffectKind.CREATE)
    machine = bench.host.machines[bench.domain]
    seed = read_seed(machine.seed)
    assert sorted(seed) == ["Autounattend.xml", "unattend.xml"]
    assert "<ComputerName>web-00001</ComputerName>" in seed["unattend.xml"]
    # pw + AdministratorPassword, as Microsoft's reference has it.
    assert "cAB3AEEAZABtAGkAbgBpAHMAdAByAGEAdABvAHIAUABhAHMAcwB3AG8AcgBkAA==" in seed["unattend.xml"]
    assert json.loads(machine.seed or b"")["label"] == "UNATTEND"
    assert machine.blueprint.hardware == Hardware("uefi-secure", "sata", "e1000e", is_windows=True)


def test_a_windows_machine_is_ready_once_its_services_answer_and_is_never_logged_in_to(folder: Path) -> None:
    bench = make_windows_bench(folder)
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    bench.member = replace(bench.member, parked=PoolState.HIBERNATED)
    bench.perform(EffectKind.AWAIT)
    assert bench.guest.shells == []
    with pytest.raises(Interrupted):
        bench.perform(EffectKind.PROVISION, cancelled=True)


def test_a_windows_machine_whose_password_is_gone_is_not_made(folder: Path) -> None:
    bench = make_windows_bench(folder)
    (folder / "secrets" / "digest-of-pw").unlink()
    with pytest.raises(NotFound, match="the administrator password of set 'web' is missing"):
        bench.perform(EffectKind.CREATE)
    assert bench.host.machines == {}


def test_user_data_that_cannot_be_rendered_makes_no_machine(folder: Path) -> None:
    bench = make_bench(folder, setup={"user_data": "#!/bin/sh\n{{ nonsense }}\n"})
    with pytest.raises(SpecError, match="user_data is not a usable Jinja2 template"):
        bench.perform(EffectKind.CREATE)
    assert bench.host.machines == {}


def test_setup_runs_its_steps_in_order_on_one_session(folder: Path) -> None:
    (folder / "site").mkdir()
    steps = [{"run": "one"}, {"upload": {"from": f"{folder}/site", "to": "/srv"}}, {"run": "two"}]
    bench = make_bench(folder, setup={"steps": steps})
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    (shell,) = bench.guest.shells
    assert shell.commands == ["one", "two"]
    assert [archive.parent for archive in shell.uploads] == [folder]
    assert shell.is_closed


def test_a_step_that_fails_ends_the_setup_and_closes_the_session(folder: Path) -> None:
    bench = make_bench(folder, setup={"steps": [{"run": "one"}, {"run": "two"}]})
    bench.guest.errors["one"] = ["no such package"]
    bench.perform(EffectKind.CREATE)
    with pytest.raises(GuestError, match="no such package"):
        bench.perform(EffectKind.PROVISION)
    (shell,) = bench.guest.shells
    assert shell.commands == ["one"]
    assert shell.is_closed


def test_steps_tell_their_beginning_their_output_and_their_seconds(folder: Path) -> None:
    (folder / "site").mkdir()
    steps = [{"run": "one\ntwo"}, {"upload": {"from": f"{folder}/site", "to": "/srv"}}]
    bench = make_bench(folder, setup={"steps": steps})
    bench.guest.outputs["one\ntwo"] = [b"", b"fetching\n", b"12 \xe2\x82", b"\xac\x1b[0m"]
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    assert bench.told == [
        ("step_started", "step 1 of 2 of web-00001: run 'one…'"),
        ("step_output", "fetching"),
        ("step_output", "12 €[0m"),
        ("step_done", "step 1 of 2 of web-00001: done after 0.0 s"),
        ("step_started", f"step 2 of 2 of web-00001: upload '{folder}/site' to /srv"),
        ("step_done", "step 2 of 2 of web-00001: done after 0.0 s"),
    ]


def test_a_step_that_fails_tells_what_it_said_and_is_named_by_its_failure(folder: Path) -> None:
    bench = make_bench(folder, setup={"steps": [{"run": "one"}, {"run": "two"}]})
    bench.guest.outputs["two"] = [b"E: no such package"]
    bench.guest.errors["two"] = ["no such package"]
    bench.perform(EffectKind.CREATE)
    with pytest.raises(GuestError) as error:
        bench.perform(EffectKind.PROVISION)
    assert error.value.message == (
        "step 2 of 2 failed after 0.0 s: in web-00001, 'two' ended with status 1: no such package"
    )
    assert bench.told[-2:] == [
        ("step_started", "step 2 of 2 of web-00001: run 'two'"),
        ("step_output", "E: no such package"),
    ]


class GuestThatRestartsDuringItsSetup(ScriptedGuest):
    """The first two sessions are lost while setup runs."""

    restarts = 2

    def finish_setup(self, member: str) -> None:
        if self.restarts:
            self.restarts -= 1
            raise ConnectionLost(f"the connection to {member} broke")


def test_a_guest_that_restarts_during_its_setup_is_asked_again(folder: Path) -> None:
    bench = make_bench(folder, GuestThatRestartsDuringItsSetup, setup={"steps": [{"run": "one"}]})
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    assert len(bench.guest.shells) == 3
    assert all(shell.is_closed for shell in bench.guest.shells)
    assert bench.guest.commands("web-00001") == ["one"]


def test_a_session_that_is_lost_under_a_step_is_a_failure(folder: Path) -> None:
    """A step may have done half of its work: it is not run twice on one machine."""
    bench = make_bench(folder, GuestThatHangsUp, setup={"steps": [{"run": "one"}]})
    bench.perform(EffectKind.CREATE)
    with pytest.raises(ConnectionLost):
        bench.perform(EffectKind.PROVISION)
    assert bench.guest.commands("web-00001") == ["one"]


class GuestThatHangsUp(ScriptedGuest):
    """Loses the session under every command."""

    def execute(self, member: str, command: str) -> None:
        raise ConnectionLost(f"the connection to {member} broke during {command!r}")


def test_readiness_is_asked_after_the_steps(folder: Path) -> None:
    bench = make_bench(folder, setup={"steps": [{"run": "one"}]}, readiness=[{"command": "is-up"}])
    bench.guest.errors["is-up"] = ["not yet"]
    bench.perform(EffectKind.CREATE)
    with pytest.raises(NeverReady, match="not yet"):
        bench.perform(EffectKind.PROVISION)
    assert bench.guest.commands("web-00001") == ["one"]


def test_waiting_again_asks_for_the_services_only(folder: Path) -> None:
    bench = make_bench(folder, setup={"steps": [{"run": "one"}]}, readiness=[{"command": "is-up"}])
    bench.perform(EffectKind.CREATE)
    bench.guest.errors["is-up"] = ["not yet"]
    with pytest.raises(NeverReady):
        bench.perform(EffectKind.AWAIT)
    bench.perform(EffectKind.AWAIT)
    assert bench.guest.commands("web-00001") == []


@pytest.mark.parametrize("kind", [EffectKind.PROVISION, EffectKind.AWAIT])
def test_work_that_is_no_longer_wanted_is_interrupted(folder: Path, kind: EffectKind) -> None:
    bench = make_bench(folder, readiness=[{"tcp": {"port": 80}}])
    bench.perform(EffectKind.CREATE)
    with pytest.raises(Interrupted):
        bench.perform(kind, cancelled=True)


def test_the_machine_is_reached_where_its_address_says_with_its_own_key(bench: Bench) -> None:
    one = bench.executor.machines.guest_address(bench.member)
    again = bench.executor.machines.guest_address(replace(bench.member, incarnation=2))
    assert (one.address, one.ssh_port) == (bench.member.address, 20022)
    assert one.host_key != again.host_key


def test_power_and_removal_reach_the_host(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.SHUT_DOWN)
    assert bench.host.power(bench.domain) is Power.STOPPED
    bench.perform(EffectKind.START)
    assert bench.host.power(bench.domain) is Power.RUNNING
    bench.perform(EffectKind.DESTROY)
    assert bench.host.power(bench.domain) is Power.ABSENT
    bench.perform(EffectKind.DESTROY)


def test_the_console_of_a_machine_is_told_for_the_reason_of_a_failure(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    bench.host.say(bench.domain, "Kernel panic\x1b[31m - not syncing\n")
    assert bench.executor.console_tail(bench.member, bench.wanted).endswith("Kernel panic[31m - not syncing")


def test_where_no_console_is_logged_setup_ends_all_the_same_and_nothing_is_told(bench: Bench) -> None:
    """As on a host elsewhere: how it ended is asked of the agent, or by SSH."""
    bench.host.why_no_console = "it is another machine"
    bench.perform(EffectKind.CREATE)
    bench.host.say(bench.domain, "words that nobody keeps\n")
    bench.perform(EffectKind.PROVISION)
    assert bench.guest.shells
    assert bench.executor.console_tail(bench.member, bench.wanted) == ""


def test_a_host_that_is_not_configured_any_more_is_named_with_its_fix(bench: Bench) -> None:
    elsewhere = replace(bench.member, host="gone")
    with pytest.raises(HostError, match="'gone' is not configured any more") as error:
        bench.executor.perform(Effect(EffectKind.START, elsewhere, "a reason"), bench.wanted, lambda: False)
    assert "config.toml" in error.value.fix


def test_a_guest_with_another_host_key_is_not_trusted(folder: Path) -> None:
    bench = make_bench(folder)
    bench.perform(EffectKind.CREATE)
    stranger = make_member(bench.wanted, incarnation=2)
    with pytest.raises(GuestError, match="another host key"):
        bench.executor.perform(Effect(EffectKind.PROVISION, stranger, "a reason"), bench.wanted, lambda: False)


def seeds(bench: Bench) -> list[str]:
    return [name for name in bench.host.volumes if name.endswith(".seed.iso")]


def test_a_machine_that_is_set_up_has_no_seed_left(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    assert len(seeds(bench)) == 1
    bench.perform(EffectKind.PROVISION)
    assert len(seeds(bench)) == 1  # no client waits for that
    bench.member = replace(bench.member, phase=Phase.IN_SERVICE)
    bench.perform(EffectKind.TELL)
    assert seeds(bench) == []
    bench.perform(EffectKind.TELL)  # as after a crash before it was recorded
    assert bench.host.calls["remove_seed"] == 2


def test_a_machine_that_drains_is_not_kept_by_its_seed(bench: Bench) -> None:
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    bench.member = replace(bench.member, phase=Phase.DRAINING, phase_since=bench.clock.now())
    bench.perform(EffectKind.TELL)
    assert bench.host.calls["remove_seed"] == 0


def test_a_machine_whose_services_never_answer_keeps_its_seed(folder: Path) -> None:
    bench = make_bench(folder, kind=ScriptedGuestThatNeverBoots)
    bench.perform(EffectKind.CREATE)
    with pytest.raises(NeverReady):
        bench.perform(EffectKind.PROVISION)
    assert len(seeds(bench)) == 1


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"setup": {"keep_seed": True}}, 1),
        ({"setup": {"keep_seed": False}}, 0),
        ({"setup": {"answer_file": "none"}, "endpoints": []}, 0),
    ],
)
def test_a_seed_stays_only_where_that_is_declared(folder: Path, fields: dict[str, Any], count: int) -> None:
    bench = make_bench(folder, **fields)
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    if can_be_told(bench.wanted.spec):
        bench.perform(EffectKind.TELL)
    assert len(seeds(bench)) == count


@pytest.mark.parametrize(("probes", "count"), [([], 1), ([{"tcp": {"port": 3389}}], 0)])
def test_of_windows_only_a_probe_tells_that_the_seed_was_read(folder: Path, probes: list[Any], count: int) -> None:
    bench = make_windows_bench(folder, probes)
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.PROVISION)
    assert len(seeds(bench)) == count


class ScriptedGuestThatNeverBoots(GuestThatNeverBoots, ScriptedGuest):
    """Both."""


class HypervisorWithReadOnlyPool(FakeHypervisor):
    """Removes nothing, and says why."""

    def remove_seed(self, domain: str, incarnation: int) -> None:
        raise HostError("cannot wipe the volume: Read-only file system")


def test_a_seed_that_cannot_be_removed_costs_no_machine_and_is_told(folder: Path) -> None:
    bench = make_bench(folder, host=HypervisorWithReadOnlyPool())
    bench.perform(EffectKind.CREATE)
    bench.perform(EffectKind.TELL)
    assert bench.told == [("seed_kept", "cannot wipe the volume: Read-only file system")]


def test_a_host_that_goes_silent_with_the_seed_is_asked_again(folder: Path) -> None:
    bench = make_bench(folder)
    bench.perform(EffectKind.CREATE)
    bench.host.go_silent()
    with pytest.raises(HostUnreachable):
        bench.perform(EffectKind.TELL)
