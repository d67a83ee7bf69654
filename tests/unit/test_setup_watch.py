"""How the end of a setup is found out: through the guest's agent, else by SSH."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.console import SetupConsole
from orchestrator.apply.setup import SetupWatch
from orchestrator.errors import AgentAbsent, GuestError, HostUnreachable, Interrupted, NeverReady, SetupFailed
from orchestrator.models.members import PoolState
from orchestrator.models.naming import domain_name
from orchestrator.models.setup_result import OUTPUT_FILE, RESULT_FILE, setup_errors
from orchestrator.models.steps import Effect, EffectKind
from orchestrator.ports.guest import Guest, Patience
from tests.builders import PREFIX
from tests.fakes import FakeGuest, FakeHypervisor
from tests.unit.test_executor import Bench, make_bench

WELL = '{"v1": {"datasource": "NoCloud", "errors": []}}'
ID = "c0ffee00-0000-4000-8000-000000000001"  # the instance-id that the seed names
ILL = '{"v1": {"errors": ["user-data ended with status 1"]}}'


@dataclass
class Case:
    bench: Bench
    watch: SetupWatch

    def agent_with(self, files: dict[str, str]) -> None:
        self.bench.host.agents[self.bench.domain] = files

    def patience(self, seconds: float = 60.0, cancelled: bool = False) -> Patience:
        return Patience(self.bench.clock.monotonic() + seconds, lambda: cancelled)

    def after_seconds(self, seconds: float, happens: Callable[[], None]) -> None:
        """Time passes whenever somebody rests; it happens when the console is next read after that."""
        clock, read = self.bench.clock, self.watch.console.read
        clock.hurry, due = 0.2, [clock.monotonic() + seconds]

        def read_then() -> str:
            if due and clock.monotonic() >= due[0]:
                due.clear()
                happens()
            return read()

        self.watch.console.read = read_then

    def console_shows(self, text: str) -> None:
        self.bench.host.say(self.bench.domain, text)


@pytest.fixture
def case(tmp_path: Any) -> Case:
    bench = make_bench(tmp_path)
    bench.perform(EffectKind.CREATE)
    agent = GuestAgent(bench.host, domain_name(PREFIX, bench.member.name))
    return Case(bench, make_watch(bench, bench.guest, agent))


def make_watch(bench: Bench, guest: Guest, agent: GuestAgent) -> SetupWatch:
    where = bench.executor.machines.guest_address(bench.member)
    console = partial(bench.executor.console_tail, bench.member, bench.wanted)
    return SetupWatch(guest, agent, SetupConsole(console, ID), where, bench.clock, grace=0.0)


def test_an_agent_says_how_setup_ended_and_nobody_logs_in(case: Case) -> None:
    case.agent_with({RESULT_FILE: WELL})
    case.watch.await_end(case.patience())
    assert case.bench.guest.shells == []


def test_without_an_agent_ssh_says_it(case: Case) -> None:
    case.watch.await_end(case.patience())
    assert [shell.is_closed for shell in case.bench.guest.shells] == [True]


def test_a_failed_setup_is_told_with_the_end_of_its_output(case: Case) -> None:
    case.agent_with({RESULT_FILE: ILL, OUTPUT_FILE: "E: no package named wbe\n"})
    with pytest.raises(SetupFailed, match="user-data ended with status 1\nE: no package named wbe"):
        case.watch.await_end(case.patience())


def test_a_console_that_tells_the_result_is_enough(case: Case) -> None:
    case.console_shows(f"understudy: result of {ID} {WELL}\r\n[5.1] a service said this later\r\n")
    case.watch.await_end(case.patience())
    assert case.bench.guest.shells == []


def test_a_failure_told_on_the_console_is_explained_by_the_agent(case: Case) -> None:
    case.console_shows(f"understudy: result of {ID} {ILL}\n")
    case.agent_with({RESULT_FILE: ILL, OUTPUT_FILE: "E: no package named wbe\n"})
    with pytest.raises(SetupFailed, match="user-data ended with status 1\nE: no package named wbe"):
        case.watch.await_end(case.patience())


@pytest.mark.parametrize(
    "line",
    [
        "",
        WELL,
        f"understudy: result of {ID}",
        f"understudy: result of {ID} {WELL[:-1]}",
        f"understudy: result of {ID} {WELL}{WELL}",
        f"understudy: result of {ID} {ILL}",
        f"understudy: result of {ID[:-1]}2 {WELL}",
        f"understudy: result of {ID} {WELL}\nunderstudy: result of {ID} {ILL}",
    ],
)
def test_nothing_else_on_a_console_is_a_good_end(line: str) -> None:
    console = SetupConsole(lambda: f"booting\n{line}\nlogin: ", ID)
    console.listen()
    assert not console.is_well


def test_a_console_that_will_tell_is_waited_for_without_a_login(case: Case) -> None:
    case.console_shows("understudy: result to follow\n")
    case.after_seconds(3.0, lambda: case.console_shows(f"understudy: result of {ID} {WELL}\n"))
    case.watch.await_end(case.patience())
    assert case.bench.guest.shells == []


def test_a_console_that_told_of_a_failure_leaves_its_words_to_ssh(case: Case) -> None:
    case.console_shows(f"understudy: result to follow\nunderstudy: result of {ID} {ILL}\n")
    case.watch.await_end(case.patience())
    assert [shell.is_closed for shell in case.bench.guest.shells] == [True]


def test_a_word_that_was_lost_among_others_is_had_from_the_agent(case: Case) -> None:
    case.console_shows("understudy: result to follow\n")
    case.after_seconds(3.0, lambda: case.agent_with({RESULT_FILE: WELL}))
    case.watch.await_end(case.patience())
    assert case.bench.guest.shells == []


def test_a_console_that_does_not_keep_its_promise_is_given_up_in_time(case: Case) -> None:
    case.console_shows("understudy: result to follow\n")
    case.bench.clock.hurry = 0.2
    with pytest.raises(NeverReady, match="setup of web-00001 did not end in time"):
        case.watch.await_end(case.patience(seconds=5.0))


def test_a_console_that_cannot_be_read_has_told_nothing() -> None:
    def read() -> str:
        raise HostUnreachable("no connection")

    console = SetupConsole(read, ID)
    console.listen()
    assert (console.has_promised, console.is_well) == (False, False)


@pytest.mark.parametrize(("restarts", "logins"), [(0, 0), (1, 1)])
def test_a_console_is_heard_where_no_restart_makes_its_result_old(
    tmp_path: Any, restarts: int, logins: int
) -> None:
    bench = make_bench(tmp_path, setup={"restarts": restarts})
    bench.perform(EffectKind.CREATE)
    instance_id = bench.host.machines[bench.domain].blueprint.uuid
    bench.host.say(bench.domain, f"understudy: result of {instance_id} {WELL}\n")
    bench.perform(EffectKind.PROVISION)
    assert len(bench.guest.shells) == logins


def test_a_setup_that_does_not_end_is_given_up_in_time(case: Case) -> None:
    case.agent_with({})
    with pytest.raises(NeverReady, match="setup of web-00001 did not end in time"):
        case.watch.await_end(case.patience(seconds=0.0))


def test_a_wait_that_is_no_longer_wanted_ends(case: Case) -> None:
    case.agent_with({})
    with pytest.raises(Interrupted):
        case.watch.await_end(case.patience(cancelled=True))


def test_an_agent_that_goes_away_leaves_it_to_ssh(case: Case) -> None:
    class Leaving(FakeHypervisor):
        def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
            if command == "guest-file-open":
                raise AgentAbsent("the guest restarts")
            return super().ask_agent(domain, command, arguments)

    host = Leaving()
    host.machines, host.volumes = case.bench.host.machines, case.bench.host.volumes
    host.agents[case.bench.domain] = {RESULT_FILE: WELL}
    guest = FakeGuest(case.bench.clock, host)
    agent = GuestAgent(host, case.bench.domain)
    make_watch(case.bench, guest, agent).await_end(case.patience())
    assert len(guest.shells) == 1


class Answering(FakeHypervisor):
    """An agent that opens every file, and returns the same to every other question."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        return 7 if command == "guest-file-open" else self.answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "yes",
        {"supported_commands": "all"},
        {"supported_commands": [None, 7, {"name": [], "enabled": True}]},
        {"supported_commands": [{"name": "guest-file-open", "enabled": True}]},
    ],
)
def test_an_agent_that_may_not_read_files_is_none(answer: object) -> None:
    assert not GuestAgent(Answering(answer), "web").can_read_files()


@pytest.mark.parametrize("answer", [7, {"buf-b64": 3}, {"buf-b64": "%%%"}, {"buf-b64": "A" * 200_000}])
def test_an_agents_nonsense_is_refused(answer: object) -> None:
    with pytest.raises(GuestError, match="guest agent's answer"):
        GuestAgent(Answering(answer), "web").read_file(RESULT_FILE)


@pytest.mark.parametrize("handle", [None, "7", [7], {"handle": 7}])
def test_what_is_no_handle_is_refused(handle: object) -> None:
    class Opening(Answering):
        def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
            return self.answer

    with pytest.raises(GuestError, match="guest agent's answer"):
        GuestAgent(Opening(handle), "web").read_file(RESULT_FILE)


def test_no_more_is_taken_than_was_asked_for() -> None:
    answer = {"buf-b64": base64.b64encode(b"x" * 5000).decode()}
    assert GuestAgent(Answering(answer), "web").read_file(OUTPUT_FILE, 100) == "x" * 100


@pytest.mark.parametrize("result", ["", "[]", '{"v1": 3}', "[" * 100_000, '{"v1": {"errors": 5}}'])
def test_a_result_that_is_none_is_an_error(result: str) -> None:
    assert "not readable" in setup_errors(result)[0]


@pytest.mark.parametrize("may_run", [True, False])
def test_the_clock_of_a_resumed_guest_is_set_by_its_agent_where_there_is_one(case: Case, may_run: bool) -> None:
    case.bench.host.agents_may_run = may_run
    resumed = replace(case.bench.member, parked=PoolState.HIBERNATED)
    effect = Effect(EffectKind.AWAIT, resumed, "a reason")
    case.agent_with({})
    case.bench.executor.perform(effect, case.bench.wanted, lambda: False)
    assert case.bench.guest.shells == []
    case.bench.host.agents.clear()
    case.bench.executor.perform(effect, case.bench.wanted, lambda: False)
    assert len(case.bench.guest.shells) == 1


def test_an_agent_is_asked_less_often_the_longer_a_guest_boots(case: Case) -> None:
    name = case.bench.member.name
    case.bench.guest.hold(name)
    case.after_seconds(40, lambda: case.bench.guest.let_go(name))
    case.watch.await_end(case.patience())
    assert 20 < case.bench.host.calls["ask_agent"] < 50


def test_an_agent_that_comes_soon_after_ssh_is_found_however_long_the_boot_took(case: Case) -> None:
    name, watch = case.bench.member.name, replace(case.watch, grace=1.5)
    case.bench.guest.hold(name)

    def answers() -> None:
        case.bench.guest.let_go(name)
        case.after_seconds(1.0, lambda: case.agent_with({RESULT_FILE: WELL}))

    case.after_seconds(40, answers)
    watch.await_end(case.patience())
    assert case.bench.guest.shells == []
