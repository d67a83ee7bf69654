"""A machine's clock that is set by hours: what is timed goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.members import Phase
from orchestrator.models.naming import domain_name
from orchestrator.reconcile.clock_watch import ClockJump, ClockWatch
from orchestrator.store import Lease
from orchestrator.store.lease import LEASE_TTL
from tests.builders import NOW, PREFIX
from tests.fakes import FakeClock, GuestThatNeverBoots
from tests.unit.loop import Site, open_site
from tests.unit.storage import Storage

DAY = 86400.0
PROBED: dict[str, Any] = {"readiness": [{"http": {"port": 80}, "interval": "1s", "failures": 3}]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def test_time_that_passes_is_no_jump_and_a_jump_is_told_once() -> None:
    clock = FakeClock()
    watch = ClockWatch(clock)
    clock.advance(10 * DAY)
    assert watch.look([NOW]) is None
    clock.jump(-DAY)
    clock.advance(3)
    assert watch.look([NOW]) == ClockJump(NOW + 10 * DAY, -DAY)
    assert watch.look([NOW]) is None


def test_a_second_is_no_jump() -> None:
    clock = FakeClock()
    watch = ClockWatch(clock)
    clock.jump(1)
    assert watch.look([]) is None


def test_records_from_the_future_tell_of_a_jump_that_nobody_saw() -> None:
    clock = FakeClock()
    assert ClockWatch(clock).look([NOW - 5, NOW + DAY]) == ClockJump(NOW, 0.0)


@pytest.mark.parametrize("jump", [DAY, -DAY, -3.0 * DAY])
def test_nothing_is_repaired_replaced_or_forgiven_because_the_clock_was_set(site: Site, jump: float) -> None:
    site.apply(instances=2, standby={"state": "stopped", "max_ready": 3}, repair={"grace": "10s"}, **PROBED)
    site.settle()
    ill = site.instances()[0].name
    before = [(one.name, one.phase, one.incarnation) for one in site.members()]
    site.clock.advance(11)
    site.balancer.down.add(ill)
    site.turn_until(lambda: site.member(ill).unhealthy_since is not None)
    site.clock.jump(jump)
    for _ in range(4):
        site.controller.turn()
    assert [(one.name, one.phase, one.incarnation) for one in site.members()] == before
    assert site.journal.count("shut_down_machine") == 1  # of the member that was parked
    site.clock.advance(15)
    site.turn_until(lambda: site.phase(ill) is Phase.STARTING, "the patience that was left is over")
    site.balancer.down.clear()
    site.settle()
    assert len(site.events("clock_set")) == 1


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_pause_between_tries_is_as_long_as_it_was(tmp_path: Path, jump: float) -> None:
    with open_site(tmp_path, make_guest=GuestThatNeverBoots) as site:
        site.apply(instances=1)
        site.settle_stuck()
        site.clock.advance(10)
        site.clock.jump(jump)
        for _ in range(3):
            site.controller.turn()
        site.clock.advance(19)
        site.controller.turn()
        assert site.only().phase is Phase.FAILED
        site.clock.advance(1)
        site.turn_until(lambda: site.only().incarnation == 2, "it is tried again")


def test_a_clock_that_was_set_back_while_no_controller_ran_holds_up_nothing(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    site.crash()
    site.clock.jump(-DAY)
    site.host.kill(domain_name(PREFIX, site.only().name))
    site.settle_again()
    assert site.only().phase is Phase.IN_SERVICE
    assert site.clock.now() - 1 <= site.only().phase_since <= site.clock.now()


def test_what_was_recorded_after_the_jump_stays_as_it_is(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    site.clock.jump(-DAY)
    site.store.touch_set("web")
    site.host.kill(domain_name(PREFIX, site.only().name))
    since = site.clock.now()
    site.settle_again()
    assert since <= site.only().phase_since <= site.clock.now()


def test_a_lease_that_is_not_renewed_ends_though_the_clock_went_back(storage: Storage) -> None:
    assert Lease(storage.store, holder="one-host:1:1").take()
    storage.clock.jump(-DAY)
    other = Lease(storage.store, holder="another-host:1:1", monotonic=storage.clock.monotonic)
    assert not other.take()
    storage.clock.advance(LEASE_TTL)
    assert not other.take()
    assert other.find_other_holder() == "one-host:1:1"
    storage.clock.advance(0.1)
    assert other.find_other_holder() is None
    assert other.take()


def test_a_holder_that_renews_keeps_it_though_the_clock_went_back(storage: Storage) -> None:
    first = Lease(storage.store, holder="one-host:1:1")
    other = Lease(storage.store, holder="another-host:1:1", monotonic=storage.clock.monotonic)
    assert first.take()
    storage.clock.jump(-DAY)
    for _ in range(5):
        assert first.renew()
        assert not other.take()
        storage.clock.advance(LEASE_TTL * 0.7)
