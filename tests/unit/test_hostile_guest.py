"""Whatever a guest answers, on its console, by its agent, over SSH: bounded, printable, and it breaks nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.step_events import LIMIT, PIECE, StepOutput
from orchestrator.errors import GuestError
from orchestrator.models.setup_result import plain, setup_errors, told_on_console
from orchestrator.models.steps import EffectKind
from orchestrator.ports.guest import Patience
from tests.fakes import FakeClock, FakeHypervisor
from tests.unit.examples import many, some
from tests.unit.test_executor import make_bench

ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\x00\x08\r"
words = st.text(max_size=300) | st.just(ESCAPES) | st.text(st.sampled_from([*ESCAPES, *'{}[]":,\n ', *"v1errors"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
keyed = st.dictionaries(
    st.sampled_from(
        ["supported_commands", "name", "enabled", "buf-b64", "err-data", "pid", "exited", "exitcode", "count"]
    ),
    values,
)


def is_printable(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


class HypervisorWithAnyAgent(FakeHypervisor):
    """Its guests' agents answer with whatever they were given."""

    answers: tuple[Any, ...] = ()
    asked = 0

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        self.asked += 1
        return self.answers[self.asked % len(self.answers)]


@many
@given(st.lists(values | keyed | st.lists(keyed, max_size=2), min_size=1, max_size=4))
def test_an_agent_may_answer_anything(answers: list[Any]) -> None:
    host, clock = HypervisorWithAnyAgent(), FakeClock()
    host.answers = tuple(answers)
    agent = GuestAgent(host, "understudy-web-1")
    patience = Patience(clock.monotonic() + 1.0, lambda: False)
    clock.hurry = 0.3  # an agent may say for ever that it is not done
    agent.can_read_files()
    agent.can_run()
    asks = (
        lambda: agent.read_file("/run/x"),
        lambda: agent.run("true", clock, patience),
        lambda: agent.run_script("true", clock, patience),
    )
    for ask in asks:
        try:
            ask()
        except GuestError as error:
            assert is_printable(error.message)
            assert len(error.message) < 300


@many
@given(
    words
    | values.map(lambda value: json.dumps(value))
    | values.map(lambda one: json.dumps({"v1": {"errors": one}}))
)
def test_a_setup_result_may_be_anything(text: str) -> None:
    errors = setup_errors(text)
    assert len(errors) <= 20
    assert all(len(error) <= 500 and is_printable(error) for error in errors)
    assert told_on_console(f"understudy: result of other {text}", "mine") is None


def test_a_result_that_is_nested_without_end_is_no_result() -> None:
    assert setup_errors("[" * 100_000) != []


@many
@given(st.lists(st.binary(max_size=400) | words.map(lambda text: text.encode("utf-8", "replace")), max_size=30))
def test_a_step_may_print_anything(chunks: list[bytes]) -> None:
    told: list[str] = []
    output = StepOutput(told.append)
    for moment, chunk in enumerate(chunks):
        output.take(chunk, float(moment))
    output.end()
    assert all(is_printable(one) and len(one) <= PIECE for one in told)
    assert sum(map(len, told)) <= LIMIT + PIECE


@many
@given(words)
def test_plain_words_reach_a_terminal_as_words(text: str) -> None:
    assert is_printable(plain(text))


def test_a_failure_that_quotes_a_guest_is_printable(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, setup={"steps": [{"run": "evil"}]})
    bench.perform(EffectKind.CREATE)
    bench.guest.errors["evil"] = [f"{ESCAPES}said the guest"]
    with pytest.raises(GuestError) as raised:
        bench.perform(EffectKind.PROVISION)
    assert is_printable(raised.value.message)
    assert "said the guest" in raised.value.message


@some
@given(st.text(max_size=400) | st.binary(max_size=900).map(lambda said: base64.b64encode(said).decode()))
def test_what_a_failed_command_says_is_bounded_and_harmless(said: str) -> None:
    host, clock = HypervisorWithAnyAgent(), FakeClock()
    host.answers = ({"exited": True, "exitcode": 1, "err-data": said}, {"pid": 7})
    agent = GuestAgent(host, "understudy-web-1")
    with pytest.raises(GuestError) as failed:
        agent.run_script("false", clock, Patience(clock.monotonic() + 1.0, lambda: False))
    assert is_printable(failed.value.message)
    assert len(failed.value.message) < 300
