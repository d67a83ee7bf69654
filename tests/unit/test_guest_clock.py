"""A machine that was hibernated is ready once its services answer and its clock is set, on the fakes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import GuestError
from orchestrator.models.members import Phase, PoolState, Role
from orchestrator.models.ownership import TagState
from orchestrator.models.spec import Probe
from orchestrator.models.steps import EffectKind
from orchestrator.ports.guest import GuestAddress, Patience
from tests.fakes import REAL_SECONDS, ScriptedGuest
from tests.unit.test_executor import Bench, make_bench

HTTP = {"http": {"port": 80}}
COMMAND = {"command": "is it well"}


class GuestThatLearnsTheTimeLate(ScriptedGuest):
    """Its clock is not set before its services were asked. It remembers what was done, in order."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.asked = threading.Event()
        self.done: list[str] = []

    def await_answer(self, probe: Probe, where: GuestAddress, port: int, patience: Patience) -> None:
        super().await_answer(probe, where, port, patience)
        self.done.append("answer")
        self.asked.set()

    def execute(self, member: str, command: str) -> None:
        if command.startswith("date"):
            assert self.asked.wait(REAL_SECONDS), "its services are asked only after its clock was set"
        super().execute(member, command)
        self.done.append(command.split()[0])


class GuestThatRefusesTheTime(ScriptedGuest):
    def execute(self, member: str, command: str) -> None:
        if command.startswith("date"):
            raise GuestError("date: not permitted")
        super().execute(member, command)


def resumed(folder: Path, kind: type[ScriptedGuest], *readiness: dict[str, Any]) -> Bench:
    """A claimed machine that goes on from its memory image."""
    bench = make_bench(folder, kind, readiness=list(readiness))
    bench.perform(EffectKind.CREATE)
    bench.member = replace(bench.member, role=Role.INSTANCE, phase=Phase.STARTING, parked=PoolState.HIBERNATED)
    return bench


def state(bench: Bench) -> TagState | None:
    tag = bench.host.machines[bench.domain].tag
    return None if tag is None else tag.state


def test_what_is_asked_from_outside_does_not_wait_for_the_clock_and_readiness_waits_for_both(
    tmp_path: Path,
) -> None:
    bench = resumed(tmp_path, GuestThatLearnsTheTimeLate, HTTP)
    bench.perform(EffectKind.AWAIT)
    assert isinstance(bench.guest, GuestThatLearnsTheTimeLate)
    assert bench.guest.done == ["answer", "date"]
    assert state(bench) is TagState.SERVING


def test_a_command_is_asked_once_the_clock_is_right(tmp_path: Path) -> None:
    bench = resumed(tmp_path, GuestThatLearnsTheTimeLate, COMMAND)
    assert isinstance(bench.guest, GuestThatLearnsTheTimeLate)
    bench.guest.asked.set()
    bench.perform(EffectKind.AWAIT)
    assert bench.guest.done == ["date", "is", "answer"]


@pytest.mark.parametrize("probe", [HTTP, COMMAND])
def test_a_machine_that_does_not_know_the_time_is_not_ready(tmp_path: Path, probe: dict[str, Any]) -> None:
    bench = resumed(tmp_path, GuestThatRefusesTheTime, probe)
    with pytest.raises(GuestError, match="not permitted"):
        bench.perform(EffectKind.AWAIT)
    assert state(bench) is not TagState.SERVING
