"""A set under constant traffic through the balancer: no operation costs a request. The tests go on in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import wait_until
from tests.support.load import DRAIN_TIMEOUT, OPERATIONS, Loaded, kill_guest, loaded, repair
from tests.support.traffic import Download

pytestmark = [pytest.mark.guest, pytest.mark.alone]

SLOW_LINES = 10  # 0.2 s each: less than the drain may take
ENDLESS_LINES = 150  # more than it may take


@pytest.fixture(scope="module")
def load(micro_image: Path) -> Iterator[Loaded]:
    with loaded(micro_image) as made:
        yield made
        kept = [one for one in made.client.requests() if one.is_reused]
        assert len(kept) > 50  # connections were kept, and new ones made
        assert len(made.client.requests()) - len(kept) > 50


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_fails(load: Loaded, operation: str) -> None:
    seen = load.measure(OPERATIONS[operation])
    assert seen.failed == ()
    assert seen.retried == 0  # none was sent to a machine that was going
    assert seen.sent > 10
    assert len(load.instances()) == (3 if operation == "scale out, cold" else 2)


def test_a_killed_guest_costs_only_what_it_had_under_way_and_gets_nothing_more(load: Loaded) -> None:
    victim, other = load.instances()
    wait_until(lambda: load.client.instances(time.monotonic() - 2) == {victim, other}, 20, "both answer")
    seen = kill_guest(load, victim)
    seen_until = time.monotonic()
    assert (seen.others, seen.elsewhere, seen.late) == ((), 0, 0)
    assert load.client.instances(seen_until - 1.0) == {other}
    assert seen.sent > 100

    repaired_at = time.monotonic()
    assert load.measure(repair).failed == ()
    wait_until(lambda: load.client.instances(repaired_at) == {victim, other}, 60, "it serves again")
    assert load.client.failed(repaired_at) == []


def test_a_download_is_served_to_its_end_by_an_instance_that_leaves(load: Loaded) -> None:
    load.site.run("scale", "web", "4")  # one to leave in each of the tests that follow, and one to stay
    began = time.monotonic()
    download = Download(load.site.endpoint, f"/cgi-bin/slow?{SLOW_LINES}")
    instance = download.await_text("line 0").split()[0]
    load.site.run("remove", f"web/{instance}")
    download.await_end()
    assert (download.failure, download.text.split("\n")[-2]) == ("", "the end")
    assert instance not in load.instances()
    assert load.client.failed(began) == []


def test_a_download_through_a_replaced_haproxy_is_served_to_its_end_too(load: Loaded) -> None:
    began = time.monotonic()
    download = Download(load.site.endpoint, f"/cgi-bin/slow?{SLOW_LINES + 5}")
    instance = download.await_text("line 0").split()[0]
    before = load.balancer_pid()
    load.apply(endpoints=1, instances=3)
    assert load.balancer_pid() != before
    load.site.run("remove", f"web/{instance}")
    download.await_end()
    assert (download.failure, download.text.split("\n")[-2]) == ("", "the end")
    assert load.client.failed(began) == []


def test_a_download_that_goes_on_is_cut_when_the_drain_timeout_is_over(load: Loaded) -> None:
    began = time.monotonic()
    download = Download(load.site.endpoint, f"/cgi-bin/slow?{ENDLESS_LINES}")
    instance = download.await_text("line 0").split()[0]
    known = load.last_event()
    load.site.run("remove", f"web/{instance}")
    download.await_end()
    assert "the end" not in download.text
    drained = {event["kind"]: event["at"] for event in load.events(known) if event["member"] == instance}
    # An event is written a moment after what it tells of.
    assert DRAIN_TIMEOUT - 0.1 <= drained["deleting"] - drained["draining"] < DRAIN_TIMEOUT + 2
    assert download.ended_at is not None
    cut_at = time.time() - (time.monotonic() - download.ended_at)
    assert DRAIN_TIMEOUT - 0.1 <= cut_at - drained["draining"] < DRAIN_TIMEOUT + 3
    assert load.client.failed(began) == []
