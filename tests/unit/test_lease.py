"""At most one controller at a time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.store import Lease, open_store
from orchestrator.store.lease import LEASE_TTL
from tests.unit.storage import Storage, url_of

ELSEWHERE = "another-host:4711:1234"
HERE = f"{socket.gethostname()}"


def ticks(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]


def test_the_first_who_asks_gets_it_and_can_renew_it(storage: Storage) -> None:
    lease = Lease(storage.store)
    assert lease.take()
    assert lease.take()


def test_a_second_holder_is_refused_while_the_first_lives(storage: Storage) -> None:
    assert Lease(storage.store, holder="one-host:1:1").take()
    second = Lease(storage.store, holder=ELSEWHERE)
    assert not second.take()
    assert second.find_other_holder() == "one-host:1:1"


def test_a_lease_that_was_given_back_is_free_at_once(storage: Storage) -> None:
    first = Lease(storage.store, holder="one-host:1:1")
    first.take()
    first.release()
    assert Lease(storage.store, holder=ELSEWHERE).take()


def test_nobody_gives_back_what_is_anothers(storage: Storage) -> None:
    Lease(storage.store, holder="one-host:1:1").take()
    second = Lease(storage.store, holder=ELSEWHERE)
    second.release()
    assert not second.take()


def test_a_holder_elsewhere_loses_it_when_it_runs_out(storage: Storage) -> None:
    Lease(storage.store, holder=ELSEWHERE).take()
    mine = Lease(storage.store)
    storage.clock.advance(LEASE_TTL - 0.1)
    assert not mine.take()
    assert mine.find_other_holder() == ELSEWHERE
    storage.clock.advance(0.2)
    assert mine.find_other_holder() is None
    assert mine.take()


def test_renewing_keeps_it(storage: Storage) -> None:
    first = Lease(storage.store, holder=ELSEWHERE)
    for _ in range(4):
        assert first.take()
        storage.clock.advance(LEASE_TTL * 0.6)
    assert not Lease(storage.store).take()


def expiry(storage: Storage) -> float:
    found = storage.store.find_lease_holder("controller")
    assert found is not None
    return found[1]


def test_turns_that_follow_each_other_at_once_write_it_once(storage: Storage) -> None:
    mine = Lease(storage.store, holder=ELSEWHERE, monotonic=storage.clock.monotonic)
    mine.take()
    before = expiry(storage)
    storage.clock.advance(0.9)
    assert mine.take()
    assert expiry(storage) == before
    storage.clock.advance(0.2)
    assert mine.take()
    assert expiry(storage) == storage.clock.now() + LEASE_TTL


def test_one_that_another_process_has_taken_meanwhile_is_not_held_for_recent(storage: Storage) -> None:
    mine = Lease(storage.store, holder=ELSEWHERE, monotonic=storage.clock.monotonic)
    mine.take()
    term = mine.term
    Lease(storage.store, holder=ELSEWHERE).release()
    other = Lease(storage.store, holder="one-host:1:1")
    assert other.take()
    assert not mine.take()
    other.release()
    assert mine.take()
    assert mine.term == term + 1


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
def test_it_is_written_anew_once_the_clock_was_set(storage: Storage, seconds: float) -> None:
    mine = Lease(storage.store, holder=ELSEWHERE, monotonic=storage.clock.monotonic)
    mine.take()
    storage.clock.jump(seconds)
    assert mine.take()
    assert expiry(storage) == storage.clock.now() + LEASE_TTL


def test_a_turn_that_takes_long_keeps_it_by_renewing(storage: Storage) -> None:
    first = Lease(storage.store, holder=ELSEWHERE)
    first.take()
    storage.clock.advance(LEASE_TTL * 0.9)
    assert first.renew()
    storage.clock.advance(LEASE_TTL * 0.9)
    assert not Lease(storage.store).take()


def test_what_was_lost_cannot_be_renewed(storage: Storage) -> None:
    first = Lease(storage.store, holder=ELSEWHERE)
    assert not first.renew()
    first.take()
    storage.clock.advance(LEASE_TTL + 1)
    assert Lease(storage.store, holder="one-host:1:1").take()
    assert not first.renew()
    assert not first.take()


def test_a_holder_that_lost_it_does_not_get_it_back_by_renewing(storage: Storage) -> None:
    first, second = Lease(storage.store, holder=ELSEWHERE), Lease(storage.store, holder="one-host:1:1")
    first.take()
    storage.clock.advance(LEASE_TTL + 1)
    assert second.take()
    assert not first.take()


def test_a_dead_process_of_this_machine_is_noticed_at_once(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    holder = f"{HERE}:{process.pid}:{ticks(process.pid)}"
    process.wait()
    Lease(storage.store, holder=holder).take()
    mine = Lease(storage.store)
    assert mine.find_other_holder() is None
    assert mine.take()


def test_a_living_process_of_this_machine_keeps_it(storage: Storage) -> None:
    Lease(storage.store, holder=f"{HERE}:{os.getppid()}:{ticks(os.getppid())}").take()
    mine = Lease(storage.store)
    assert mine.find_other_holder() is not None
    assert not mine.take()


def test_a_process_number_that_was_given_out_again_is_another_process(storage: Storage) -> None:
    Lease(storage.store, holder=f"{HERE}:{os.getppid()}:1").take()
    assert Lease(storage.store).take()


def test_leases_of_different_names_do_not_meet(storage: Storage) -> None:
    assert Lease(storage.store, "controller", ELSEWHERE).take()
    assert Lease(storage.store, "other").take()


def test_two_processes_cannot_both_have_it(storage: Storage, tmp_path: Path) -> None:
    other = open_store(url_of(tmp_path), storage.clock.now)
    assert Lease(storage.store, holder=ELSEWHERE).take()
    assert not Lease(other).take()
    other.close()
