"""Effects under way: one at a time for each member, bounded for each host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from orchestrator.models.members import Role
from orchestrator.models.steps import Effect, EffectKind
from orchestrator.reconcile.workers import Work, Workers
from tests.builders import make_member

SECONDS = 10.0


@dataclass
class Gate:
    """Work that goes on until the test opens the gate; counts who came and who went."""

    opened: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run(self, work: Work) -> None:
        self.begun.release()
        assert self.opened.wait(SECONDS)

    def go(self) -> None:
        self.done.release()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


def effect(
    number: int, kind: EffectKind = EffectKind.CREATE, role: Role = Role.INSTANCE, host: str = "local"
) -> Effect:
    return Effect(kind, make_member(suffix=f"{number:05}", role=role, host=host), "a reason")


def start(workers: Workers, gate: Gate, *effects: Effect) -> list[bool]:
    return [workers.try_start(one, gate.run, gate.go) for one in effects]


def test_work_is_under_way_until_it_ends_and_then_the_loop_is_told(gate: Gate) -> None:
    workers = Workers(parallel=2, hosts=1)
    assert start(workers, gate, effect(1)) == [True]
    assert workers.busy() == {"web-00001": EffectKind.CREATE}
    gate.opened.set()
    assert gate.done.acquire(timeout=SECONDS)
    assert workers.busy() == {}
    workers.stop()


def test_the_loop_is_told_of_work_that_raises(gate: Gate) -> None:
    workers = Workers(parallel=2, hosts=1)

    def fail(_work: Work) -> None:
        raise ValueError("no")

    assert workers.try_start(effect(1), fail, gate.go)
    assert gate.done.acquire(timeout=SECONDS)
    assert workers.busy() == {}
    workers.stop()


def test_a_member_has_one_work_at_a_time(gate: Gate) -> None:
    workers = Workers(parallel=4, hosts=1)
    assert start(workers, gate, effect(1), effect(1, EffectKind.DESTROY), effect(2)) == [True, False, True]
    gate.opened.set()
    workers.stop()


def test_heavy_work_is_bounded_for_each_host(gate: Gate) -> None:
    workers = Workers(parallel=2, hosts=2)
    begun = start(workers, gate, effect(1), effect(2), effect(3), effect(4, host="other"))
    assert begun == [True, True, False, True]
    gate.opened.set()
    workers.stop()


@pytest.mark.parametrize("kind", [EffectKind.SHUT_DOWN, EffectKind.DESTROY])
def test_work_that_gives_room_is_never_held_back(gate: Gate, kind: EffectKind) -> None:
    workers = Workers(parallel=1, hosts=1)
    begun = start(workers, gate, effect(1), *(effect(number, kind) for number in range(2, 6)))
    assert begun == [True] * 5
    gate.opened.set()
    workers.stop()


def test_the_reserve_leaves_a_place_for_the_set(gate: Gate) -> None:
    workers = Workers(parallel=2, hosts=1)
    reserve = [effect(number, role=Role.STANDBY) for number in (1, 2)]
    assert start(workers, gate, *reserve, effect(3)) == [True, False, True]
    gate.opened.set()
    workers.stop()


def test_machines_made_from_nothing_never_hold_back_one_that_only_starts(gate: Gate) -> None:
    workers = Workers(parallel=2, hosts=1)
    cold = [effect(1), effect(2, EffectKind.PROVISION), effect(3)]
    claims = [effect(4, EffectKind.START), effect(5, EffectKind.AWAIT), effect(6, EffectKind.START)]
    assert start(workers, gate, *cold, *claims) == [True, True, False, True, True, False]
    gate.opened.set()
    workers.stop()


def test_with_one_place_the_reserve_may_have_it(gate: Gate) -> None:
    workers = Workers(parallel=1, hosts=1)
    assert start(workers, gate, effect(1, role=Role.STANDBY)) == [True]
    gate.opened.set()
    workers.stop()


def test_every_work_that_was_begun_really_runs(gate: Gate) -> None:
    """More threads than places, or begun work would wait behind work that waits for a guest."""
    workers = Workers(parallel=4, hosts=2)
    heavy = [effect(number, host=host) for host, number in (("a", 1), ("a", 2), ("b", 3), ("b", 4))]
    light = [effect(number, EffectKind.SHUT_DOWN) for number in range(10, 18)]
    assert all(start(workers, gate, *heavy, *light))
    for _ in range(12):
        assert gate.begun.acquire(timeout=SECONDS)
    gate.opened.set()
    workers.stop()


def test_an_interrupt_reaches_the_work_of_that_member_only() -> None:
    workers = Workers(parallel=2, hosts=1)
    stopped: list[str] = []
    both = threading.Barrier(3)

    def run(work: Work) -> None:
        both.wait(SECONDS)
        both.wait(SECONDS)
        if work.cancelled.is_set():
            stopped.append(work.effect.member.name)
        both.wait(SECONDS)

    for number in (1, 2):
        workers.try_start(effect(number), run, lambda: None)
    both.wait(SECONDS)
    workers.interrupt("web-00001")
    workers.interrupt("web-nobody")
    both.wait(SECONDS)
    both.wait(SECONDS)
    workers.stop()
    assert stopped == ["web-00001"]


def test_stopping_cancels_everything_and_waits_for_it() -> None:
    workers = Workers(parallel=2, hosts=1)
    ended: list[bool] = []

    def run(work: Work) -> None:
        ended.append(work.cancelled.wait(SECONDS))

    for number in (1, 2):
        workers.try_start(effect(number), run, lambda: None)
    workers.stop()
    assert ended == [True, True]


def test_a_member_whose_work_failed_rests_while_others_go_on(gate: Gate) -> None:
    workers = Workers(parallel=4, hosts=1)
    workers.pause("web-00001", 3600)
    workers.pause("web-00002", 0)
    assert start(workers, gate, effect(1), effect(2), effect(3)) == [False, True, True]
    gate.opened.set()
    workers.stop()


def test_work_that_begins_what_follows_leaves_its_member_to_nobody_in_between(gate: Gate) -> None:
    workers = Workers(parallel=1, hosts=1)
    began: list[bool] = []
    seen: list[dict[str, EffectKind]] = []

    def run(work: Work) -> None:
        began.append(workers.try_start(effect(1, EffectKind.TELL), gate.run, gate.go))
        began.append(workers.try_start(effect(1, EffectKind.AWAIT), gate.run, gate.go, instead_of=work))

    def look() -> None:
        seen.append(workers.busy())
        ended.set()

    ended = threading.Event()
    assert workers.try_start(effect(1, EffectKind.START), run, look)
    assert gate.begun.acquire(timeout=SECONDS)
    assert ended.wait(SECONDS)
    assert not workers.try_start(effect(1, EffectKind.TELL), gate.run, gate.go)
    gate.opened.set()
    assert gate.done.acquire(timeout=SECONDS)
    workers.stop()
    assert began == [False, True]
    assert seen == [{"web-00001": EffectKind.AWAIT}]
    assert workers.busy() == {}


def test_machines_that_do_not_hear_hold_back_no_claim(gate: Gate) -> None:
    workers = Workers(parallel=1, hosts=1)
    deaf = [effect(number, EffectKind.SHUT_DOWN) for number in range(40)]
    assert all(start(workers, gate, *deaf))
    begun = threading.Event()
    assert workers.try_start(effect(99, EffectKind.START), lambda work: begun.set(), lambda: None)
    assert begun.wait(SECONDS)
    gate.opened.set()
    workers.stop()


def test_the_taking_of_a_golden_image_is_waited_for_at_the_end_and_can_be_interrupted(gate: Gate) -> None:
    workers = Workers(parallel=2, hosts=1)
    works: list[Work] = []

    def run(work: Work) -> None:
        works.append(work)
        gate.run(work)

    for one in (effect(1, EffectKind.TAKE_GOLDEN), effect(2)):
        assert workers.try_start(one, run, gate.go)
    assert workers.interrupt_all() == 1
    gate.opened.set()
    workers.stop()
    assert {work.effect.kind: work.cancelled.is_set() for work in works} == {
        EffectKind.TAKE_GOLDEN: False,
        EffectKind.CREATE: True,
    }
