"""Two controllers at once, in two processes: one acts, the other waits; no step is done twice."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter

import pytest

from tests.support.controllers import await_holder, two_serving
from tests.support.installation import Installation, wait_until
from tests.support.specs import WEB, web_set

pytestmark = [pytest.mark.guest, pytest.mark.alone]

TAKE_OVER = 15.0  # seconds
# A process that hears neither signal to end: the guest waits three seconds for it before it switches itself off.
SLOW_TO_GO = WEB.replace(
    "httpd -p", "(trap '' TERM HUP; while :; do sleep 1; done) > /dev/null 2>&1 < /dev/null &\nhttpd -p"
)
# What happens to a member at most once while it is made, parked and claimed.
ONCE = ("claim_cold", "admitted", "provisioning", "claim_served", "in_service", "parking", "standby")


def assert_no_step_twice(site: Installation, after: int = 0) -> None:
    events = [event for event in site.json_lines("events", "web") if event["id"] > after and event["member"]]
    counts = Counter((event["member"], event["kind"]) for event in events if event["kind"] in ONCE)
    assert counts
    assert {key: count for key, count in counts.items() if count > 1} == {}
    kinds = {event["kind"] for event in events}
    assert not kinds & {"failed", "trouble", "repairing", "deleted"}


def last_event(site: Installation) -> int:
    return int(site.json_lines("events", "web")[-1]["id"])


def test_one_acts_and_the_other_takes_over_when_it_is_killed(site: Installation) -> None:
    site.write("web.yaml", web_set(site, instances=1, standby="{state: stopped, max_ready: 2}"))
    with two_serving(site) as (acting, waiting):
        site.run("apply", str(site.root / "web.yaml"))
        assert not waiting.says("controller is running")
        assert not waiting.says("creating machine")
        assert_no_step_twice(site)
        assert len(site.domains()) == 2

        # In the middle of a machine that is being made.
        site.run("scale", "web", "3", "--timeout", "1", expect=3)
        wait_until(lambda: len(site.domains()) >= 3, 15, "a machine is being made")
        killed_at = time.monotonic()
        acting.send(signal.SIGKILL)
        waiting.await_line("controller is running", TAKE_OVER)
        assert await_holder(site, {waiting.pid}) == waiting.pid
        assert time.monotonic() - killed_at < TAKE_OVER
        site.run("scale", "web", "3")
        assert site.status()["instances"] == {"desired": 3, "in_service": 3}
        assert_no_step_twice(site)
        assert sorted(site.domains()) == sorted(row["domain"] for row in site.status()["members"])


def test_one_that_was_held_up_for_longer_than_its_lease_does_nothing_more(site: Installation) -> None:
    site.write("web.yaml", web_set(site, instances=1, user_data=SLOW_TO_GO))
    site.run("apply", str(site.root / "web.yaml"))
    (row,) = site.members("instance")
    with two_serving(site) as (acting, waiting):
        known = last_event(site)
        # Not waited for: a guest without other work may be off before the command gives up.
        asking = site.start("restart", f"web/{row['name']}", "--timeout", "1")
        acting.await_line(f"restarting {row['name']}", 15)
        time.sleep(0.2)  # until its power button is pressed
        acting.send(signal.SIGSTOP)
        assert "running" in domain_state(row["domain"])  # it was stopped in the middle of switching off the guest
        asking.communicate(timeout=30)
        assert asking.returncode == 3
        assert await_holder(site, {waiting.pid}, TAKE_OVER) == waiting.pid
        wait_until(lambda: site.fetch("/boots").split() == ["boot", "boot"], 60, "the other one restarts it")
        wait_until(lambda: site.status()["converged"], 15, "the restart is done")

        body, told, events = domain_id(row["domain"]), len(acting.lines), last_event(site)
        acting.send(signal.SIGCONT)
        time.sleep(10)  # longer than the guest would take to switch itself off
        assert domain_id(row["domain"]) == body
        assert last_event(site) == events
        assert any("interrupted" in line for line in acting.lines[told:])
        assert await_holder(site, {waiting.pid}) == waiting.pid
        done = [event["kind"] for event in site.json_lines("events", "web") if event["id"] > known]
        assert [done.count(kind) for kind in ("draining", "starting", "ready", "in_service")] == [1, 1, 1, 1]

        # It is a controller like any other: it waits, and takes over in its turn.
        waiting.send(signal.SIGKILL)
        assert await_holder(site, {acting.pid}, TAKE_OVER) == acting.pid
        site.run("scale", "web", "2")
        assert acting.says("forking machine 1 of")  # as its first machine is there to be forked
        assert_no_step_twice(site, events)


def domain_id(domain: str) -> str:
    """Another one after each start of the machine; `-` while it is off."""
    return subprocess.run(["virsh", "-q", "domid", domain], capture_output=True, text=True, check=True).stdout


def domain_state(domain: str) -> str:
    return subprocess.run(
        ["virsh", "-q", "domstate", domain, "--reason"], capture_output=True, text=True, check=True
    ).stdout
