"""Probes that the balancer does not ask are asked beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from orchestrator.errors import NeverReady
from orchestrator.models.members import Member
from orchestrator.models.spec import Probe
from orchestrator.reconcile.readiness_watch import ReadinessWatch
from tests.builders import make_member, make_set, make_spec
from tests.fakes import FakeClock

WEB = make_set(make_spec(endpoints=[], readiness=[{"http": {"port": 80}, "interval": "2s", "failures": 3}]))
PATIENCE = 10.0


class Asked:
    """Probes as they are asked; `verdict` is how the next ones end."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.answers: list[tuple[str, float]] = []
        self.fails = False
        self.woken = threading.Event()
        self.done = threading.Event()
        self.watch = ReadinessWatch(self.ask, self.clock, self.woken.set)

    def ask(self, member: Member, probe: Probe, seconds: float, cancelled: Callable[[], bool]) -> None:
        self.answers.append((member.name, seconds))
        self.done.set()
        if self.fails:
            raise NeverReady("nothing listens")

    def look(self, *members: Member) -> frozenset[str]:
        return self.watch.look([(WEB, member) for member in members])


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.watch.stop()


def test_a_member_is_asked_when_its_interval_is_over_and_not_before(asked: Asked) -> None:
    member = make_member(WEB)
    asked.look(member)
    asked.clock.advance(1.9)
    asked.look(member)
    assert asked.answers == []
    asked.clock.advance(0.1)
    asked.look(member)
    assert asked.done.wait(PATIENCE)
    assert asked.answers == [(member.name, 6.0)]


def test_silence_is_told_and_so_is_its_end(asked: Asked) -> None:
    member = make_member(WEB)
    assert asked.look(member) == frozenset()
    asked.fails = True
    asked.clock.advance(2)
    asked.look(member)
    assert asked.woken.wait(PATIENCE)
    assert asked.look(member) == {member.name}
    asked.woken.clear()
    asked.fails = False
    asked.clock.advance(2)
    asked.look(member)
    assert asked.woken.wait(PATIENCE)
    assert asked.look(member) == frozenset()


def test_another_body_or_another_probe_begins_anew(asked: Asked) -> None:
    member = make_member(WEB)
    asked.look(member)
    asked.fails = True
    asked.clock.advance(2)
    asked.look(member)
    assert asked.woken.wait(PATIENCE)
    assert asked.look(replace(member, incarnation=2)) == frozenset()


def test_who_is_not_in_service_is_forgotten(asked: Asked) -> None:
    member = make_member(WEB)
    asked.look(member)
    asked.fails = True
    asked.clock.advance(2)
    asked.look(member)
    assert asked.woken.wait(PATIENCE)
    assert asked.look() == frozenset()
    assert asked.look(member) == frozenset()


def test_what_the_balancer_asks_is_not_asked_twice(asked: Asked) -> None:
    covered = make_set(make_spec(readiness=[{"http": {"port": 80}}]))
    for _ in range(2):
        asked.watch.look([(covered, make_member(covered))])
        asked.clock.advance(100)
    assert asked.answers == []
