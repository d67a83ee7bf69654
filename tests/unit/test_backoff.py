"""Pauses between tries grow and stay bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner import Limits
from orchestrator.planner.backoff import retry_at
from tests.builders import NOW, make_member
from tests.unit.examples import many


def pause(failures: int, limits: Limits | None = None) -> float:
    member = make_member(failures=failures, phase_since=NOW)
    return retry_at(member, limits or Limits()) - NOW


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 30), (1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 600), (1000, 600), (10**9, 600)],
)
def test_the_pause_doubles_from_half_a_minute_to_ten(failures: int, seconds: float) -> None:
    assert pause(failures) == seconds


@many
@given(st.integers(1, 200), st.floats(0.1, 100), st.floats(0.1, 10_000))
def test_a_pause_never_shrinks_with_another_failure_and_never_exceeds_its_bound(
    failures: int, first: float, most: float
) -> None:
    limits = Limits(retry_pause=first, retry_pause_max=most)
    assert pause(failures, limits) <= pause(failures + 1, limits) <= most + 1e-3


def test_a_wish_to_look_again_makes_a_failed_member_due_at_once() -> None:
    touched = make_member(failures=5, phase_since=0.0)
    assert retry_at(touched, Limits()) < NOW
