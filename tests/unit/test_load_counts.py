"""What counts as bad where a guest is killed under load: all but what it had under way."""

from __future__ import annotations

from tests.support.load import judge_kill
from tests.support.traffic import Request

DIED = 100.0


def request(at: float, until: float, failure: str = "") -> Request:
    return Request(at, until - at, "" if failure else "web-2", failure)


def test_only_what_was_under_way_may_fail() -> None:
    requests = [
        request(99.0, 99.5, "before its time"),
        request(99.9, 100.1, "reset"),
        request(99.9, 100.1),
        request(100.3, 100.4),
    ]
    seen = judge_kill(requests, DIED, [(DIED, 7), (104.0, 7)], 0)
    assert (len(seen.in_flight), seen.others, seen.bad, seen.sent) == (1, (), 0, 1)


def test_what_begins_after_the_death_may_not_fail() -> None:
    seen = judge_kill([request(100.01, 100.2, "503")], DIED, [(DIED, 7)], 0)
    assert (len(seen.others), seen.bad) == (1, 1)


def test_what_fails_at_a_guest_that_lives_is_bad() -> None:
    assert judge_kill([request(99.9, 100.1, "reset")], DIED, [(DIED, 7)], 2).bad == 2


def test_each_time_that_the_dead_is_chosen_after_a_second_is_bad() -> None:
    chosen = [(DIED, 7), (100.02, 9), (100.9, 9), (101.5, 12), (103.0, 12)]
    seen = judge_kill([], DIED, chosen, 0)
    assert (seen.late, seen.bad) == (3, 3)
    assert seen.sent_for == 1.5
    assert judge_kill([], DIED, chosen[:3], 0).bad == 0
