"""Guests in service that restart by themselves: once, and over and over (rows A7, D4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Advance, Effect, EffectKind
from orchestrator.planner import Limits
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.member import MemberPlan, MemberView, plan_member
from orchestrator.planner.restarts import plan_unanswered, plan_went_off
from tests.builders import NOW, make_member, make_set, make_spec, see_balancer, see_machine

LIMITS = Limits()


def web(action: str = "restart") -> ScaleSet:
    return make_set(make_spec(repair={"action": action}))


def plan_for(
    member: Member, wanted: ScaleSet, rebooted: bool = False, now: float = NOW, power: Power = Power.RUNNING
) -> MemberPlan:
    seen = see_machine(member, power, rebooted=rebooted)
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
    (step,) = plan_for(replace(member, failures=0, phase_since=0.0), wanted).steps
    assert isinstance(step, Effect) and step.kind is EffectKind.AWAIT


# ---- who does not come up after a start ----------------------------------------------------------------------


def down(wanted: ScaleSet, failures: int, **fields: Any) -> Member:
    """It was in service, and did not come up: as `plan_unanswered` has it recorded."""
    asks = Request.RESTART if wanted.spec.repair.action != "none" else None
    since = {"phase_since": NOW, "unhealthy_since": NOW, "reason": "no answer\nconsole of web: fsck"}
    given = {"phase": Phase.STARTING, "failures": failures, "request": asks, **since}
    return make_member(wanted, **{**given, **fields})


@pytest.mark.parametrize(
    ("action", "phase", "asks"),
    [
        ("restart", Phase.STARTING, Request.RESTART),
        ("none", Phase.STARTING, None),
        ("reimage", Phase.FAILED, None),
        ("replace", Phase.FAILED, None),
    ],
)
def test_the_disk_of_what_was_in_service_goes_only_where_that_is_declared(
    action: str, phase: Phase, asks: Request | None
) -> None:
    wanted = web(action)
    step = plan_unanswered(make_member(wanted, phase=Phase.STARTING), wanted, "no answer")
    assert (step.phase, step.asks, step.is_held) == (phase, asks, phase is Phase.STARTING)
    assert not step.new_body


@pytest.mark.parametrize("action", ["restart", "none", "reimage", "replace"])
@pytest.mark.parametrize(
    "fields", [{"role": Role.STANDBY}, {"entered": False}, {"entered": True, "served": False}, {"served": True}]
)
def test_what_never_served_is_made_anew(action: str, fields: dict[str, Any]) -> None:
    wanted = web(action)
    never = {"phase": Phase.STARTING, "entered": False, "served": False}
    member = make_member(wanted, **{**never, **fields})
    assert plan_unanswered(member, wanted, "no answer").phase is Phase.FAILED


@pytest.mark.parametrize("action", ["restart", "none", "reimage", "replace"])
@pytest.mark.parametrize("served", [True, False])
def test_a_machine_that_goes_off_while_it_starts_is_started_again_twice(action: str, served: bool) -> None:
    wanted = web(action)
    member = make_member(wanted, phase=Phase.STARTING, entered=served, served=served)
    step = plan_went_off(member, wanted, "it is stopped\nconsole of web: halt")
    is_left = served and action == "none"
    assert (step.phase, step.is_repair, step.is_held) == (Phase.STARTING, not is_left, is_left)
    if not is_left:
        assert step.reason == "it is stopped; starting it again\nconsole of web: halt"
    assert plan_went_off(replace(member, failures=1), wanted, "it is stopped").is_held == is_left
    again = replace(member, failures=2)
    assert plan_went_off(again, wanted, "it is stopped") == plan_unanswered(again, wanted, "it is stopped")


@pytest.mark.parametrize(("failures", "pause"), [(0, 30), (1, 30), (2, 60), (3, 120), (4, 240)])
@pytest.mark.parametrize("power", [Power.RUNNING, Power.CRASHED, Power.STOPPED])
def test_it_is_restarted_after_growing_pauses(failures: int, pause: float, power: Power) -> None:
    wanted = web()
    member = down(wanted, failures)
    made = plan_for(member, wanted, now=NOW + pause - 1, power=power)
    assert (made.steps, made.until, made.is_stuck) == ((), NOW + pause, True)
    assert made.waiting == "no answer; it is given time before the next try\nconsole of web: fsck"
    (step,) = plan_for(member, wanted, now=NOW + pause, power=power).steps
    assert isinstance(step, Advance)
    assert (step.phase, step.asks, step.is_repair, step.is_held) == (
        Phase.STARTING,
        Request.RESTART,
        True,
        False,
    )
    assert step.reason == "restarting web-00001 again: no answer"
    begun = replace(member, failures=failures + 1, unhealthy_since=None)
    (step,) = plan_for(begun, wanted, power=power).steps
    if power is Power.RUNNING:
        assert isinstance(step, Effect) and step.kind is EffectKind.SHUT_DOWN
    else:
        assert isinstance(step, Advance) and (step.phase, step.answered) == (Phase.STARTING, True)


@pytest.mark.parametrize("power", [Power.RUNNING, Power.CRASHED, Power.ABSENT])
def test_after_five_restarts_it_is_given_up_with_its_disk(power: Power) -> None:
    wanted = web()
    made = plan_for(down(wanted, MAX_TRIES), wanted, now=NOW + 10**6, power=power)
    assert (made.steps, made.is_stuck, made.until) == ((), True, None)
    assert made.waiting == "gave up on web-00001 after 5 tries: no answer"


def test_where_repair_is_off_it_is_waited_for_and_nothing_is_done_to_it() -> None:
    wanted = web("none")
    member = down(wanted, 0)
    made = plan_for(member, wanted, now=NOW + 29)
    assert (made.steps, made.until, made.is_stuck) == ((), NOW + 30, True)
    assert made.waiting == "no answer; repair is off\nconsole of web: fsck"
    (step,) = plan_for(member, wanted, now=NOW + 30).steps
    assert isinstance(step, Effect) and step.kind is EffectKind.AWAIT
    for power in (Power.STOPPED, Power.CRASHED, Power.HIBERNATED, Power.ABSENT):
        made = plan_for(member, wanted, now=NOW + 30, power=power)
        assert (made.steps, made.is_stuck, made.until) == ((), True, None)
        assert made.waiting == f"machine of web-00001 is {power.value}; repair is off"


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY])
def test_where_repair_is_off_a_machine_that_vanished_on_its_way_back_is_left(phase: Phase) -> None:
    wanted = web("none")
    made = plan_for(make_member(wanted, phase=phase), wanted, power=Power.ABSENT)
    assert (made.steps, made.is_stuck) == ((), True)
    (step,) = plan_for(make_member(wanted, phase=phase, served=False), wanted, power=Power.ABSENT).steps
    assert isinstance(step, Advance) and step.new_body


@pytest.mark.parametrize(
    ("action", "phase", "asks", "answered"),
    [("none", Phase.STARTING, None, True), ("reimage", Phase.FAILED, None, False)],
)
def test_another_action_counts_as_soon_as_it_is_declared(
    action: str, phase: Phase, asks: Request | None, answered: bool
) -> None:
    member = down(web(), 1)
    (step,) = plan_for(member, web(action), now=NOW + 30).steps
    assert isinstance(step, Advance)
    assert (step.phase, step.asks, step.answered) == (phase, asks, answered)
