"""A guest is told its phase by its agent or over SSH, and its hooks run: one effect, on the fakes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.apply.agent import GuestAgent
from orchestrator.errors import AgentAbsent, GuestError, HookFailed, Interrupted, NeverReady
from orchestrator.lifecycle.telling import PHASE_FILE, tell_script
from orchestrator.models.members import GuestPhase, Phase, PoolState, Role
from orchestrator.models.steps import EffectKind
from orchestrator.ports.guest import GuestShell, Patience
from tests.fakes import FakeClock, FakeGuestShell, FakeHypervisor, ScriptedGuest
from tests.unit.test_executor import Bench, make_bench

HOOKS = {"on_claim": ["come", "say hello"], "on_drain": ["go"], "timeout": "20s"}
ENVIRONMENT = {"UNDERSTUDY_PHASE": "in_service", "UNDERSTUDY_MEMBER": "web-00001", "UNDERSTUDY_SET": "web"}


def make_running(folder: Path, kind: type[ScriptedGuest] = ScriptedGuest, **fields: Any) -> Bench:
    bench = make_bench(folder, kind, **fields)
    bench.perform(EffectKind.CREATE)
    return bench


def tell(bench: Bench, cancelled: bool = False, **fields: Any) -> str:
    """What the guest reads after its member, changed by `fields`, was told."""
    bench.member = replace(bench.member, told=None, **fields)
    bench.perform(EffectKind.TELL, cancelled)
    return bench.host.machines[bench.domain].reads


def with_agent(bench: Bench, may_run: bool = True) -> Bench:
    bench.host.agents[bench.domain] = {}
    bench.host.agents_may_run = may_run
    return bench


# ---- the phase -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "phase", "word"),
    [
        (Role.STANDBY, Phase.READY, "standby"),
        (Role.INSTANCE, Phase.IN_SERVICE, "in_service"),
        (Role.INSTANCE, Phase.DRAINING, "draining"),
    ],
)
@pytest.mark.parametrize("has_agent", [False, True])
def test_the_guest_reads_its_phase(tmp_path: Path, role: Role, phase: Phase, word: str, has_agent: bool) -> None:
    bench = make_running(tmp_path)
    if has_agent:
        with_agent(bench)
    assert tell(bench, role=role, phase=phase, phase_since=bench.clock.now()) == word
    assert [shell.is_closed for shell in bench.guest.shells] == ([] if has_agent else [True])


def test_an_agent_that_may_run_nothing_leaves_it_to_ssh(tmp_path: Path) -> None:
    bench = with_agent(make_running(tmp_path), may_run=False)
    assert tell(bench, phase=Phase.IN_SERVICE) == "in_service"
    assert len(bench.guest.shells) == 1


def test_a_guest_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    bench = make_running(tmp_path)
    bench.guest.hold(bench.member.name)
    bench.clock.hurry = 1.0
    began = bench.clock.monotonic()
    with pytest.raises(NeverReady):
        tell(bench, phase=Phase.IN_SERVICE)
    assert bench.clock.monotonic() - began == pytest.approx(60.0, abs=1)


@pytest.mark.parametrize(("timeout", "seconds"), [("8s", 5), ("10min", 10)])
def test_telling_takes_no_longer_than_the_drain_it_belongs_to_and_never_long(
    tmp_path: Path, timeout: str, seconds: float
) -> None:
    bench = make_running(tmp_path, scale_in={"drain_timeout": timeout})
    bench.guest.hold(bench.member.name)
    bench.clock.hurry = 1.0
    began = bench.clock.monotonic()
    with pytest.raises(NeverReady):
        tell(bench, phase=Phase.DRAINING, phase_since=bench.clock.now() - 3)
    assert bench.clock.monotonic() - began == pytest.approx(seconds, abs=1)


def test_the_script_makes_the_file_in_one_moment(tmp_path: Path) -> None:
    """By a real shell, below another root."""
    file = tmp_path / "run" / "phase"
    for phase in GuestPhase:
        script = tell_script(phase).replace(PHASE_FILE, str(file)).replace("/run/understudy", str(file.parent))
        subprocess.run(["/bin/sh", "-c", script], check=True)
        assert file.read_text(encoding="utf-8") == f"{phase.value}\n"
    assert list(file.parent.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644


# ---- the agent -----------------------------------------------------------------------------------------------


class ScriptedAgent(FakeHypervisor):
    """Answers with what it was given, one after the other, the last for ever."""

    answers: tuple[object, ...] = ()

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        if command == "guest-exec":
            return {"pid": 4}
        answer, self.answers = self.answers[0], self.answers[1:] or self.answers
        return answer


def run_by_agent(clock: FakeClock, *answers: object, cancelled: bool = False) -> None:
    host = ScriptedAgent()
    host.answers = answers
    GuestAgent(host, "d").run("true", clock, Patience(clock.monotonic() + 5, lambda: cancelled))


def test_what_an_agent_runs_is_waited_for() -> None:
    run_by_agent(FakeClock(), {"exited": False}, {"exited": False}, {"exited": True, "exitcode": 0})


@pytest.mark.parametrize(
    "answer", [{"exited": True, "exitcode": 1}, {"exited": True, "signal": 9}, {"exited": True}]
)
def test_what_an_agent_ran_in_vain_is_a_failure(answer: object) -> None:
    with pytest.raises(GuestError, match="ended with status"):
        run_by_agent(FakeClock(), answer)


@pytest.mark.parametrize("answer", [None, [], {"exited": "yes"}, {"exited": 1}])
def test_an_agent_that_never_says_that_it_is_done_is_given_up(answer: object) -> None:
    clock = FakeClock()
    clock.hurry = 1.0
    with pytest.raises(NeverReady):
        run_by_agent(clock, answer)


def test_an_agent_is_not_waited_for_when_the_work_is_not_wanted() -> None:
    with pytest.raises(Interrupted):
        run_by_agent(FakeClock(), {"exited": False}, cancelled=True)


@pytest.mark.parametrize("answer", [None, {}, {"pid": "4"}])
def test_an_agent_that_talks_nonsense_is_not_trusted(answer: object) -> None:
    class Babbling(FakeHypervisor):
        def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
            return answer

    clock = FakeClock()
    with pytest.raises(GuestError, match="not understood"):
        GuestAgent(Babbling(), "d").run("true", clock, Patience(clock.monotonic() + 5, lambda: False))


class HypervisorWhoseAgentsLeave(FakeHypervisor):
    """As soon as they were asked to run something."""

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        if command == "guest-exec":
            return {"pid": 4}
        raise AgentAbsent("the agent is not connected")


def test_an_agent_that_goes_away_leaves_telling_to_ssh(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, host=HypervisorWhoseAgentsLeave())
    bench.perform(EffectKind.CREATE)
    assert tell(bench, phase=Phase.IN_SERVICE) == "in_service"


# ---- hooks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_agent", [False, True])
def test_on_claim_runs_in_order_on_one_session_after_the_guest_was_told(tmp_path: Path, has_agent: bool) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    if has_agent:
        with_agent(bench)
    assert tell(bench, phase=Phase.STARTING, entered=False) == "in_service"
    (shell,) = bench.guest.shells
    assert shell.commands == ["come", "say hello"]
    assert shell.environments == [ENVIRONMENT, ENVIRONMENT]
    assert shell.is_closed
    assert bench.told == [("hook_done", "on_claim of web-00001: done after 0.0 s")]


def test_on_drain_knows_that_it_drains(tmp_path: Path) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    assert tell(bench, phase=Phase.DRAINING, phase_since=0.0) == "draining"
    (shell,) = bench.guest.shells
    assert shell.commands == ["go"]
    assert shell.environments == [{**ENVIRONMENT, "UNDERSTUDY_PHASE": "draining"}]


@pytest.mark.parametrize("phase", [Phase.IN_SERVICE, Phase.READY, Phase.STANDBY])
def test_no_hook_runs_elsewhere(tmp_path: Path, phase: Phase) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    tell(bench, phase=phase, entered=False)
    assert bench.guest.commands("web-00001") == []


def test_a_hibernated_guest_knows_the_time_before_its_hook_runs(tmp_path: Path) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    tell(bench, phase=Phase.STARTING, entered=False, parked=PoolState.HIBERNATED)
    first, *rest = bench.guest.commands("web-00001")
    assert first.startswith("date -u -s @")
    assert rest == ["come", "say hello"]


def test_a_hook_ends_with_its_first_failure_and_says_which(tmp_path: Path) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    bench.guest.errors["come"] = ["no licence left"]
    with pytest.raises(HookFailed) as error:
        tell(bench, phase=Phase.STARTING, entered=False)
    assert error.value.message == (
        "on_claim of web-00001 failed after 0.0 s: in web-00001, 'come' ended with status 1: no licence left"
    )
    (shell,) = bench.guest.shells
    assert (shell.commands, shell.is_closed) == (["come"], True)
    assert bench.told == []


class GuestThatHangs(ScriptedGuest):
    """Opens sessions; commands come to their deadline, which is noted."""

    def open_shell(self, where: Any, patience: Patience) -> GuestShell:
        super().open_shell(where, patience)
        self.shells[-1] = HangingShell(**vars(self.shells[-1]))
        return self.shells[-1]


class HangingShell(FakeGuestShell):
    def run(self, command: str, patience: Patience, listen: object = None, environment: object = None) -> None:
        self.commands.append(f"{command} until {patience.deadline:g}")
        raise NeverReady(f"in {self.member}, {command!r} was not done in time")


@pytest.mark.parametrize(
    ("hook", "fields"),
    [("on_claim", {"phase": Phase.STARTING, "entered": False}), ("on_drain", {"phase": Phase.DRAINING})],
)
def test_a_hook_that_hangs_ends_at_its_own_deadline(tmp_path: Path, hook: str, fields: dict[str, Any]) -> None:
    bench = make_running(tmp_path, GuestThatHangs, hooks={hook: ["dig"], "timeout": "20s"})
    with pytest.raises(HookFailed, match=f"{hook} of web-00001 was not done within 20 s: 'dig'"):
        tell(bench, **fields)
    assert bench.guest.commands("web-00001") == [f"dig until {bench.clock.monotonic() + 20:g}"]


@pytest.mark.parametrize(
    ("parked", "seconds"),
    [(PoolState.RUNNING, 20), (PoolState.HIBERNATED, 20), (PoolState.STOPPED, 600), (None, 600)],
)
def test_a_guest_that_boots_has_the_time_of_a_setup_until_its_hook(
    tmp_path: Path, parked: PoolState | None, seconds: float
) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    bench.guest.hold(bench.member.name)
    bench.host.agents[bench.domain] = {}
    bench.clock.hurry = 5.0
    began = bench.clock.monotonic()
    with pytest.raises(HookFailed, match="on_claim of web-00001 could not run"):
        tell(bench, phase=Phase.STARTING, entered=False, parked=parked)
    assert bench.clock.monotonic() - began == pytest.approx(seconds, abs=5)


def test_a_hook_that_is_no_longer_wanted_is_interrupted(tmp_path: Path) -> None:
    bench = make_running(tmp_path, hooks=HOOKS)
    with pytest.raises(Interrupted):
        tell(bench, cancelled=True, phase=Phase.STARTING, entered=False)
