"""Guests in service that restart by themselves: once, and over and over (rows A7, D4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.models.members import Member, Phase, ScaleSet
from orchestrator.models.steps import Advance, Effect, EffectKind
from orchestrator.planner import Limits
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.member import MemberPlan, MemberView, plan_member
from tests.builders import NOW, make_member, make_set, make_spec, see_balancer, see_machine

LIMITS = Limits()


def web(action: str = "restart") -> ScaleSet:
    return make_set(make_spec(repair={"action": action}))


def plan_for(member: Member, wanted: ScaleSet, rebooted: bool = False, now: float = NOW) -> MemberPlan:
    seen = see_machine(member, rebooted=rebooted)
    return plan_member(MemberView(member, wanted, seen, see_balancer(wanted), now, LIMITS, wanted.pool_state))


def restarted(wanted: ScaleSet, failures: int) -> Advance:
    (step,) = plan_for(make_member(wanted, failures=failures), wanted, rebooted=True).steps
    assert isinstance(step, Advance)
    return step


def held(wanted: ScaleSet, failures: int) -> Member:
    return make_member(
        wanted, phase=Phase.STARTING, failures=failures, phase_since=NOW, unhealthy_since=NOW, reason="it loops"
    )


@pytest.mark.parametrize("action", ["restart", "reimage", "replace"])
def test_the_first_restart_counts_and_is_waited_for_like_any_start(action: str) -> None:
    step = restarted(web(action), failures=0)
    assert (step.phase, step.is_repair, step.is_held, step.new_body) == (Phase.STARTING, True, False, False)


def test_the_next_one_before_it_was_well_is_held_out_of_rotation_with_its_disk() -> None:
    step = restarted(web(), failures=1)
    assert (step.phase, step.is_repair, step.is_held, step.new_body) == (Phase.STARTING, True, True, False)
    assert "restarts over and over" in step.reason


@pytest.mark.parametrize("action", ["reimage", "replace"])
def test_it_costs_the_body_only_where_that_is_declared(action: str) -> None:
    assert restarted(web(action), failures=1).phase is Phase.FAILED


def test_where_repair_is_off_nothing_is_counted() -> None:
    step = restarted(web("none"), failures=4)
    assert (step.phase, step.is_repair, step.is_held) == (Phase.STARTING, False, False)


@pytest.mark.parametrize(("failures", "pause"), [(2, 30), (3, 60), (4, 120)])
def test_pauses_grow_and_its_services_are_asked_when_they_are_over(failures: int, pause: float) -> None:
    wanted = web()
    member = held(wanted, failures)
    made = plan_for(member, wanted, now=NOW + pause - 1)
    assert (made.steps, made.until, made.is_stuck) == ((), NOW + pause, True)
    assert made.waiting == "it loops; it is given time before the next try"
    (step,) = plan_for(member, wanted, now=NOW + pause).steps
    assert isinstance(step, Effect) and step.kind is EffectKind.AWAIT


def test_after_the_last_try_it_is_given_up_until_the_operator_speaks() -> None:
    wanted = web()
    member = held(wanted, MAX_TRIES)
    made = plan_for(member, wanted, now=NOW + 10**6)
    assert (made.steps, made.is_stuck, made.until) == ((), True, None)
    assert made.waiting == "gave up on web-00001 after 5 tries: it loops"
    (step,) = plan_for(replace(member, failures=0), wanted).steps
    assert isinstance(step, Effect) and step.kind is EffectKind.AWAIT
