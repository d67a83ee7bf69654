"""Looking at several hosts at once: none holds up the others, what comes late is not lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.models.sightings import HostSighting, Power
from orchestrator.reconcile.lookout import Lookout
from tests.builders import PREFIX, make_member, see_host, see_machine
from tests.fakes import FakeHypervisor, HypervisorThatHangs
from tests.unit.loop import PATIENCE

NO_TIME = 0.0  # seconds: whoever has not answered yet is late


@pytest.fixture
def hung() -> Iterator[HypervisorThatHangs]:
    host = HypervisorThatHangs("hung", "b")
    yield host
    host.go_on()


class HostThatMeets(FakeHypervisor):
    """Answers only once the others are being asked too."""

    barrier = threading.Barrier(3)

    def observe(self) -> HostSighting:
        self.barrier.wait(PATIENCE)
        return super().observe()


def test_hosts_are_asked_at_the_same_time_and_told_in_their_order() -> None:
    hosts = {name: HostThatMeets(name, "a") for name in ("two", "one", "three")}
    seen = Lookout(hosts, PATIENCE).look()
    assert list(seen) == ["two", "one", "three"]
    assert all(host.answers for host in seen.values())


def test_a_host_that_hangs_is_unknown_with_a_reason_and_its_zone(hung: HypervisorThatHangs) -> None:
    hung.hang()
    seen = Lookout({"hung": hung}, NO_TIME).look()["hung"]
    assert (seen.answers, seen.zone) == (False, "b")
    assert seen.reason == "host hung has not answered within 0 s"


def test_a_host_that_hangs_does_not_hold_up_the_others_nor_pile_up_looks(hung: HypervisorThatHangs) -> None:
    hung.hang()
    late = threading.Event()
    lookout = Lookout({"hung": hung, "fine": FakeHypervisor("fine")}, NO_TIME, late.set)
    while not lookout.look()["fine"].answers:
        assert late.wait(PATIENCE)  # it was not there in no time, but it comes
        late.clear()
    assert hung.is_asked.wait(PATIENCE)
    for _ in range(5):
        assert not lookout.look()["hung"].answers
    assert hung.calls["observe"] == 1


def test_a_look_that_was_late_once_is_not_waited_for_again(hung: HypervisorThatHangs) -> None:
    hung.hang()
    lookout = Lookout({"hung": hung}, deadline=0.2)
    lookout.look()
    began = time.monotonic()
    for _ in range(10):
        assert not lookout.look()["hung"].answers
    assert time.monotonic() - began < 10 * 0.2


def test_an_answer_in_time_is_waited_for_as_long_as_a_machine_takes_to_start(hung: HypervisorThatHangs) -> None:
    hung.hang()
    seen: list[HostSighting] = []
    lookout = Lookout({"hung": hung}, PATIENCE)
    thread = threading.Thread(target=lambda: seen.extend(lookout.look().values()))
    thread.start()
    assert hung.is_asked.wait(PATIENCE)
    assert not seen
    hung.go_on()
    thread.join(PATIENCE)
    assert [host.answers for host in seen] == [True]


def test_a_late_answer_is_told_and_used_at_the_next_look(hung: HypervisorThatHangs) -> None:
    hung.hang()
    late = threading.Event()
    lookout = Lookout({"hung": hung}, NO_TIME, late.set)
    lookout.look({"hung": "as it was"})
    hung.go_on()
    assert late.wait(PATIENCE)
    assert lookout.look({"hung": "as it was"})["hung"].answers
    assert hung.calls["observe"] == 1


def test_a_late_answer_that_is_older_than_the_records_is_not_used(hung: HypervisorThatHangs) -> None:
    hung.hang()
    late = threading.Event()
    lookout = Lookout({"hung": hung}, NO_TIME, late.set)
    lookout.look({"hung": "before a machine was made"})
    hung.go_on()
    assert late.wait(PATIENCE)
    hung.hang()
    assert not lookout.look({"hung": "after it was made"})["hung"].answers
    assert hung.is_asked.wait(PATIENCE)
    assert hung.calls["observe"] == 2


class HostThatTells(FakeHypervisor):
    """Tells what is written for it, one sighting for each look; each waits until it may be told."""

    def __init__(self, *sightings: HostSighting) -> None:
        super().__init__("local")
        self._sightings = list(sightings)
        self.may_tell = threading.Semaphore(0)

    def observe(self) -> HostSighting:
        assert self.may_tell.acquire(timeout=PATIENCE)
        return self._sightings.pop(0)


def test_a_restart_of_a_guest_seen_in_an_answer_that_was_not_used_is_told_once_with_the_next() -> None:
    one = see_machine(make_member(suffix="00001"), Power.RUNNING)
    other = see_machine(make_member(suffix="00002"), Power.RUNNING)
    rebooted = see_machine(make_member(suffix="00001"), Power.RUNNING, rebooted=True)
    host = HostThatTells(see_host(rebooted, other), see_host(one, other), see_host(one, other))
    late = threading.Event()
    lookout = Lookout({"local": host}, NO_TIME, late.set)
    told = []
    for stamp in (1, 2, 2, 3, 3):
        seen = lookout.look({"local": stamp})["local"]
        if seen.answers:
            told.append({name: machine.rebooted for name, machine in seen.machines.items()})
        elif len(told) < 2:
            host.may_tell.release()
            assert late.wait(PATIENCE)
            late.clear()
    name = f"{PREFIX}-web-0000"
    assert told[:2] == [{f"{name}1": True, f"{name}2": False}, {f"{name}1": False, f"{name}2": False}]


class HostThatBreaks(FakeHypervisor):
    def observe(self) -> HostSighting:
        raise ZeroDivisionError


def test_a_host_whose_look_fails_unexpectedly_is_silent_and_the_others_are_seen() -> None:
    seen = Lookout({"broken": HostThatBreaks("broken"), "fine": FakeHypervisor("fine")}, PATIENCE).look()
    assert (seen["broken"].answers, seen["fine"].answers) == (False, True)
    assert "internal error" in seen["broken"].reason
