"""A fork is told who it is: what its agent is asked, and what its failures become."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.identity import Christening
from orchestrator.errors import AgentAbsent, ForkFailed, GoldenUnusable, GuestError, Interrupted
from orchestrator.models.members import Phase
from orchestrator.models.naming import domain_name
from orchestrator.models.steps import EffectKind
from orchestrator.ports.guest import Patience
from orchestrator.render.identity import ForkProgram, ForkWords, render_dismissal
from tests.builders import PREFIX, make_member
from tests.fakes import FakeClock, FakeHypervisor
from tests.unit.test_executor import Bench, make_bench


class Agent:
    """Answers of a guest agent, one for each command; the last goes on. What was asked is kept."""

    def __init__(self, **answers: list[object]) -> None:
        self._answers = {name.replace("_", "-"): list(values) for name, values in answers.items()}
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.links: list[bool] = []

    def ask_agent(self, domain: str, command: str, arguments: dict[str, object]) -> object:
        self.asked.append((command, dict(arguments)))
        answers = self._answers.get(command, [{}])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def set_link(self, domain: str, up: bool) -> None:
        self.links.append(up)

    def answer(self, command: str, answer: object) -> None:
        self._answers[command] = [answer]


DONE: object = {"exited": True, "exitcode": 0}


NOBODY: object = GuestError("failed to open file '/run/understudy.said': No such file or directory")
PROGRAM = ForkProgram("main\n", b"calls")
WORDS = ForkWords("id-1", waiting="secret\nbecome\nexit\n", new="secret\n")


def christen(host: Agent, cancelled: Callable[[], bool] = lambda: False, words: ForkWords = WORDS) -> None:
    clock = FakeClock()
    clock.hurry = 0.5
    agent = GuestAgent(host, "web-1")  # type: ignore[arg-type]
    patience = Patience(clock.monotonic() + 60, cancelled)
    Christening(host, "web-1", agent, clock, PROGRAM).perform(words, patience)  # type: ignore[arg-type]


def text(words: str) -> object:
    return {"count": len(words), "buf-b64": base64.b64encode(words.encode()).decode(), "eof": True}


def waiting(*said: str, **answers: list[object]) -> Agent:
    """A fork in which a shell waits, and what it says, look by look; the first look is before it is woken."""
    return Agent(guest_file_open=[11, 12], guest_file_read=[text(one) for one in said], **answers)


def commands(host: Agent, name: str) -> list[dict[str, object]]:
    return [arguments for command, arguments in host.asked if command == name]


def test_the_shell_that_waits_is_given_its_words_and_the_link_comes_up_once_it_has_ended() -> None:
    host = waiting("", "", "woken\n", "", "ended id-1 0\n")
    christen(host)
    assert [command for command, _ in host.asked] == [
        "guest-file-open",
        "guest-file-read",
        "guest-file-open",
        "guest-file-write",
        "guest-file-close",
        *["guest-file-read"] * 4,
        "guest-file-close",
    ]
    opened = [arguments for command, arguments in host.asked if command == "guest-file-open"]
    assert opened == [{"path": PROGRAM.said, "mode": "r"}, {"path": PROGRAM.wake, "mode": "r+"}]
    (written,) = [arguments for command, arguments in host.asked if command == "guest-file-write"]
    assert written["handle"] == 12
    assert base64.b64decode(str(written["buf-b64"])).decode() == WORDS.waiting
    closed = [arguments["handle"] for command, arguments in host.asked if command == "guest-file-close"]
    assert closed == [12, 11]
    assert host.links == [True]


def test_who_was_woken_by_a_controller_that_died_is_not_woken_again() -> None:
    host = waiting("woken\n", "ended id-1 0\n")
    christen(host)
    assert "guest-file-write" not in [command for command, _ in host.asked]
    assert host.links == [True]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (("", "woken\nthere is no \x1b[1mcard\nin find_card\nended id-1 1\n"), "status 1: there is no"),
        (("", "sh: 1: instance: not set\nended  2\n"), "status 2: sh: 1: instance"),
        (("", "woken\n", ""), "not done in time"),
        (("", ""), "does not wake"),
        (("", "woken\nended id-2 0\n", ""), "not done in time"),
        (("", "ended  0\n", ""), "not done in time"),
        (("", "woken\nended  0\n", ""), "not done in time"),
        (("", "x" * 60_000), "not done in time"),
    ],
)
def test_without_words_that_did_their_work_there_is_no_link(said: tuple[str, ...], words: str) -> None:
    host = waiting(*said)
    with pytest.raises(GuestError, match=words) as failed:
        christen(host)
    assert "\x1b" not in failed.value.message
    assert host.links == []
    assert not commands(host, "guest-exec")


def test_what_is_said_after_the_end_is_of_no_account() -> None:
    host = waiting("", "woken\nended id-1 0\na server of fork.d listens\n")
    christen(host)
    assert host.links == [True]


def test_a_fork_may_say_much() -> None:
    host = waiting("", "woken\n" + "x" * 50_000, "x" * 50_000 + "\nended id-1 0\n")
    christen(host)
    assert host.links == [True]


def test_what_goes_wrong_while_it_is_spoken_to_starts_no_second_shell() -> None:
    host = waiting("", guest_file_close=[GuestError("the guest agent's answer is not understood")])
    with pytest.raises(GuestError):
        christen(host)
    assert not commands(host, "guest-exec")
    assert host.links == []


def test_a_shell_that_does_not_wake_is_spoken_to_again() -> None:
    host = waiting(*[""] * 8, "woken\nended id-1 0\n")
    christen(host)
    assert 2 <= len(commands(host, "guest-file-write")) <= 4
    assert host.links == [True]


@pytest.mark.parametrize(
    "host",
    [
        waiting("ended  70\n"),
        waiting("ended  0\n"),
        Agent(guest_file_open=[11, NOBODY], guest_file_read=[text("")]),
        Agent(guest_file_open=[11], guest_file_read=[GuestError("it is disabled")]),
    ],
)
def test_where_nobody_can_be_spoken_to_a_new_shell_is_started(host: Agent) -> None:
    host.answer("guest-exec", {"pid": 3})
    host.answer("guest-exec-status", DONE)
    christen(host)
    (started,) = commands(host, "guest-exec")
    assert base64.b64decode(str(started["input-data"])).decode() == WORDS.new
    assert host.links == [True]


def test_a_fork_that_is_done_stays_one_whatever_becomes_of_a_handle() -> None:
    host = waiting("", "woken\nended id-1 0\n", guest_file_close=[{}, AgentAbsent("it is gone")])
    christen(host)
    assert host.links == [True]


def test_what_a_pipe_does_not_take_goes_to_a_new_shell() -> None:
    host = waiting("", guest_exec=[{"pid": 3}], guest_exec_status=[DONE])
    christen(host, words=ForkWords("id-1", waiting="x" * 65_000, new="all of it\n"))
    assert not commands(host, "guest-file-write")
    assert host.links == [True]


def test_where_none_waits_the_script_goes_by_standard_input_and_the_link_comes_up_after_it() -> None:
    host = Agent(guest_file_open=[NOBODY], guest_exec=[{"pid": 3}], guest_exec_status=[{"exited": False}, DONE])
    christen(host)
    (started,) = [arguments for command, arguments in host.asked if command == "guest-exec"]
    assert started["path"] == "/bin/sh"
    assert "arg" not in started
    assert base64.b64decode(str(started["input-data"])) == b"secret\n"
    assert host.links == [True]


def test_an_agent_that_comes_late_is_waited_for() -> None:
    absent = AgentAbsent("not yet")
    host = Agent(guest_file_open=[absent, absent, NOBODY], guest_exec=[{"pid": 3}], guest_exec_status=[DONE])
    christen(host)
    assert host.links == [True]


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (Agent(guest_file_open=[AgentAbsent("there is none")]), "there is none"),
        (Agent(guest_file_open=[NOBODY], guest_exec=[GuestError("it is forbidden")]), "it is forbidden"),
        (Agent(guest_file_open=[NOBODY], guest_exec=[{"pid": "3"}]), "not understood"),
        (
            Agent(
                guest_file_open=[NOBODY],
                guest_exec=[{"pid": 3}],
                guest_exec_status=[
                    {"exited": True, "exitcode": 1, "err-data": base64.b64encode(b"no \x1b[1mcard\n").decode()}
                ],
            ),
            "status 1: no",
        ),
        (
            Agent(
                guest_file_open=[NOBODY],
                guest_exec=[{"pid": 3}],
                guest_exec_status=[{"exited": True, "exitcode": 2, "err-data": "%"}],
            ),
            "status 2",
        ),
        (
            Agent(guest_file_open=[NOBODY], guest_exec=[{"pid": 3}], guest_exec_status=[{"exited": False}]),
            "not done in time",
        ),
    ],
)
def test_without_a_script_that_ended_well_there_is_no_link(host: Agent, words: str) -> None:
    with pytest.raises(GuestError, match=words) as failed:
        christen(host)
    assert "\x1b" not in failed.value.message
    assert host.links == []


def test_work_that_is_no_longer_wanted_ends() -> None:
    host = Agent(guest_file_open=[AgentAbsent("not yet")])
    with pytest.raises(Interrupted):
        christen(host, cancelled=lambda: True)


class Patient(FakeClock):
    """Whoever rests, rests as long as it wanted to."""

    def rest(self, seconds: float = 0.0) -> None:
        self.advance(seconds)


@pytest.mark.parametrize(("seconds", "most"), [(0.5, 14), (2.0, 34), (60.0, 80)])
def test_a_guest_at_work_is_seldom_asked_and_soon_seen_to_be_done(seconds: float, most: int) -> None:
    clock = Patient()
    end = clock.monotonic() + seconds
    asked: list[float] = []

    class Host(Agent):
        def ask_agent(self, domain: str, command: str, arguments: dict[str, object]) -> object:
            if command != "guest-exec-status":
                return {"pid": 3}
            asked.append(clock.monotonic())
            return DONE if clock.monotonic() >= end else {"exited": False}

    patience = Patience(end + 60, lambda: False)
    GuestAgent(Host(), "web-1").run_script("exit 0\n", clock, patience)  # type: ignore[arg-type]
    assert len(asked) <= most
    assert clock.monotonic() - end <= max(0.04, 0.08 * seconds)


# ---- the effects ---------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A host with a golden image of the set's model; the member is to be created."""
    made = make_bench(tmp_path)
    source = make_member(made.wanted, "00009")
    new, made.member = made.member, source
    made.perform(EffectKind.CREATE)
    made.host.agents_may_run = True
    made.host.agents[made.domain] = {}
    made.host.remove_seed(made.domain, 1)
    made.perform(EffectKind.TAKE_GOLDEN)
    made.member = new
    return made


def be_in(bench: Bench, phase: Phase) -> None:
    bench.member = make_member(bench.wanted, phase=phase)


def test_a_fork_is_told_who_it_is_and_marked(bench: Bench) -> None:
    bench.perform(EffectKind.FORK)
    assert not bench.host.machines[bench.domain].is_linked
    be_in(bench, Phase.PROVISIONING)
    bench.perform(EffectKind.PROVISION)
    machine = bench.host.machines[bench.domain]
    assert machine.is_linked
    assert f"name={bench.member.name}\n" in machine.told
    assert machine.tag is not None
    assert machine.tag.forked
    assert [kind for kind, _ in bench.told] == ["forked"]


def test_forking_twice_is_one_fork(bench: Bench) -> None:
    bench.perform(EffectKind.FORK)
    first = bench.host.machines[bench.domain]
    bench.perform(EffectKind.FORK)
    assert bench.host.machines[bench.domain] is first


def test_a_fork_without_an_agent_is_no_use(bench: Bench) -> None:
    bench.perform(EffectKind.FORK)
    del bench.host.agents[bench.domain]
    bench.clock.hurry = 1.0
    be_in(bench, Phase.PROVISIONING)
    with pytest.raises(ForkFailed, match="no use as a fork"):
        bench.perform(EffectKind.PROVISION)
    assert not bench.host.machines[bench.domain].is_linked


def test_none_is_taken_where_no_agent_may_run_commands(tmp_path: Path) -> None:
    made = make_bench(tmp_path)
    made.perform(EffectKind.CREATE)
    made.host.agents[made.domain] = {}
    with pytest.raises(GoldenUnusable, match="no guest agent of its may run commands"):
        made.perform(EffectKind.TAKE_GOLDEN)
    assert made.host.goldens == {}


def test_a_source_is_prepared_before_it_is_taken_and_sends_its_shell_away_after(bench: Bench) -> None:
    prepare, dismiss = bench.host.scripts
    assert prepare.endswith("prepare_source < /dev/null\n")  # its agent writes no files
    assert dismiss == render_dismissal()
    assert bench.host.goldens


def test_what_cannot_be_prepared_is_not_taken(tmp_path: Path) -> None:
    made = make_bench(tmp_path)
    made.perform(EffectKind.CREATE)
    made.host.agents[made.domain] = {}
    made.host.agents_may_run = True
    made.host.exit_status = 1
    with pytest.raises(GoldenUnusable, match="cannot be prepared for forks"):
        made.perform(EffectKind.TAKE_GOLDEN)
    assert made.host.goldens == {}
    assert made.host.scripts[-1] == render_dismissal()


def test_without_a_golden_image_there_is_no_fork(tmp_path: Path) -> None:
    made = make_bench(tmp_path)
    with pytest.raises(GoldenUnusable):
        made.perform(EffectKind.FORK)
    assert domain_name(PREFIX, made.member.name) not in made.host.machines


def test_a_golden_image_is_removed_by_its_host(bench: Bench) -> None:
    host: FakeHypervisor = bench.host
    bench.executor.remove_golden("local", bench.wanted.model)
    assert host.goldens == {}
