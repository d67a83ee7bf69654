"""Two waits for one guest at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from orchestrator.apply.beside import beside
from orchestrator.errors import GuestError, Interrupted, NeverReady
from orchestrator.ports.guest import Patience
from tests.fakes import REAL_SECONDS, FakeClock


def patience(is_cancelled: Callable[[], bool] = lambda: False) -> Patience:
    return Patience(FakeClock().monotonic() + 60, is_cancelled)


def wait_in(given: Patience, happened: Callable[[], bool] = lambda: False) -> None:
    """As a driver waits for a guest."""
    clock = FakeClock()
    while not happened():
        if given.is_cancelled():
            raise Interrupted("no longer waited for")
        clock.rest()


def ends_in(ended: list[str]) -> Callable[[Patience], None]:
    """Work that goes on until it is given up, and says so."""

    def work(given: Patience) -> None:
        try:
            wait_in(given)
        finally:
            ended.append("work")

    return work


def test_neither_waits_for_the_other() -> None:
    asked, answered = threading.Event(), threading.Event()

    def work(given: Patience) -> None:
        answered.set()
        wait_in(given, asked.is_set)

    with beside(work, patience()):
        assert answered.wait(REAL_SECONDS)
        asked.set()


def test_it_is_left_when_both_are_done() -> None:
    entered, done = threading.Event(), []

    def work(given: Patience) -> None:
        wait_in(given, entered.is_set)
        done.append("work")

    with beside(work, patience()):
        entered.set()
    assert done == ["work"]


def test_what_fails_beside_ends_the_block_and_is_what_is_raised() -> None:
    def work(given: Patience) -> None:
        raise GuestError("it refuses the time")

    with pytest.raises(GuestError, match="it refuses the time"), beside(work, patience()) as mine:
        wait_in(mine)


def test_what_fails_after_the_block_is_raised_too() -> None:
    entered = threading.Event()

    def work(given: Patience) -> None:
        wait_in(given, entered.is_set)
        raise GuestError("it refuses the time")

    with pytest.raises(GuestError, match="it refuses the time"), beside(work, patience()):
        entered.set()


def test_a_block_that_fails_ends_the_work() -> None:
    ended: list[str] = []

    def work(given: Patience) -> None:
        try:
            wait_in(given)
        except Interrupted:
            ended.append("given up")

    with pytest.raises(NeverReady, match="silent"), beside(work, patience()):
        raise NeverReady("silent")
    assert ended == ["given up"]


def test_nothing_goes_on_once_it_is_not_wanted() -> None:
    unwanted, ended = threading.Event(), list[str]()
    with pytest.raises(Interrupted), beside(ends_in(ended), patience(unwanted.is_set)) as mine:
        unwanted.set()
        wait_in(mine)
    assert ended == ["work"]


def test_work_that_goes_on_after_the_block_is_given_up_once_it_is_not_wanted() -> None:
    unwanted, ended = threading.Event(), list[str]()
    with pytest.raises(Interrupted), beside(ends_in(ended), patience(unwanted.is_set)):
        unwanted.set()
    assert ended == ["work"]


def test_only_the_thread_that_waits_asks_whether_it_is_wanted() -> None:
    asked_by: set[threading.Thread] = set()

    def is_cancelled() -> bool:
        asked_by.add(threading.current_thread())
        return False

    with beside(lambda given: wait_in(given, lambda: not given.is_cancelled()), patience(is_cancelled)) as mine:
        assert not mine.is_cancelled()
    assert asked_by == {threading.current_thread()}
