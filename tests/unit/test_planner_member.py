"""The next step of one member, by example."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models.members import Member, Phase, PoolState, Request, Role, ScaleSet
from orchestrator.models.sightings import BalancerSighting, Power, Rotation, ServerSighting
from orchestrator.models.steps import Advance, Effect, EffectKind
from orchestrator.planner import Limits
from orchestrator.planner.member import MemberPlan, MemberView, plan_member
from tests.builders import NOW, make_member, make_set, make_spec, see_balancer, see_machine, see_server

WEB = make_set()
RUNNING_POOL = make_set(make_spec(standby={"state": "running", "max_ready": 4}))
STOPPED_POOL = make_set(make_spec(standby={"state": "stopped", "max_ready": 4}))


def plan_for(
    member: Member,
    power: Power = Power.RUNNING,
    wanted: ScaleSet = WEB,
    balancer: BalancerSighting | None = None,
    rebooted: bool = False,
) -> MemberPlan:
    seen = see_machine(member, power, rebooted=rebooted)
    view = MemberView(member, wanted, seen, balancer or see_balancer(wanted), NOW, Limits(), wanted.pool_state)
    return plan_member(view)


def only_effect(made: MemberPlan) -> EffectKind:
    (step,) = made.steps
    assert isinstance(step, Effect)
    return step.kind


def only_advance(made: MemberPlan) -> Advance:
    (step,) = made.steps
    assert isinstance(step, Advance)
    return step


def member(**fields: Any) -> Member:
    return make_member(WEB, **fields)


def behind(state: Rotation, sessions: int = 0, **fields: Any) -> BalancerSighting:
    return see_balancer(WEB, {"web-00001": see_server(state, sessions)}, **fields)


# ---- the way into service ------------------------------------------------------------------------------------


def test_a_new_member_is_created() -> None:
    assert only_effect(plan_for(member(phase=Phase.CREATING), Power.ABSENT)) is EffectKind.CREATE


def test_creation_is_repeated_when_a_crash_left_its_machine_behind() -> None:
    assert only_effect(plan_for(member(phase=Phase.CREATING), Power.RUNNING)) is EffectKind.CREATE


def test_a_machine_that_runs_is_set_up() -> None:
    assert only_effect(plan_for(member(phase=Phase.PROVISIONING))) is EffectKind.PROVISION


@pytest.mark.parametrize("power", [Power.STOPPED, Power.CRASHED, Power.ABSENT])
def test_a_machine_that_goes_away_during_its_setup_has_failed(power: Power) -> None:
    step = only_advance(plan_for(member(phase=Phase.PROVISIONING), power))
    assert step.phase is Phase.FAILED
    assert step.reason == f"machine of web-00001 is {power.value} before its setup ended"


def test_a_ready_instance_waits_until_the_balancer_has_it() -> None:
    made = plan_for(member(phase=Phase.READY))
    assert made == MemberPlan(waiting="web-00001 enters rotation")


def test_a_ready_instance_is_in_service_once_every_endpoint_has_it() -> None:
    made = plan_for(member(phase=Phase.READY), balancer=behind(Rotation.READY))
    assert only_advance(made).phase is Phase.IN_SERVICE


def test_one_endpoint_of_two_is_not_in_service() -> None:
    endpoints = [
        {"name": "http", "listen": 8080, "port": 80},
        {"name": "admin", "listen": 8081, "port": 81},
    ]
    wanted = make_set(make_spec(endpoints=endpoints))
    half = BalancerSighting(True, "", {("web.http", "web-00001"): see_server()})
    made = plan_for(make_member(wanted, phase=Phase.READY), wanted=wanted, balancer=half)
    assert not made.steps


def test_a_set_without_endpoints_needs_no_balancer() -> None:
    wanted = make_set(make_spec(endpoints=[]))
    made = plan_for(
        make_member(wanted, phase=Phase.READY), wanted=wanted, balancer=BalancerSighting(running=False)
    )
    assert only_advance(made).phase is Phase.IN_SERVICE


def test_a_ready_instance_is_stuck_with_the_balancers_words_while_it_refuses() -> None:
    balancer = see_balancer(WEB, trouble="HAProxy is not installed")
    made = plan_for(member(phase=Phase.READY), balancer=balancer)
    assert made == MemberPlan(waiting="HAProxy is not installed", is_stuck=True)


# ---- the pool ------------------------------------------------------------------------------------------------


def spare(wanted: ScaleSet, **fields: Any) -> Member:
    return make_member(wanted, role=Role.STANDBY, **fields)


def test_a_ready_member_of_a_stopped_pool_is_parked_by_a_clean_shutdown() -> None:
    ready = spare(STOPPED_POOL, phase=Phase.READY)
    assert only_advance(plan_for(ready, wanted=STOPPED_POOL)).phase is Phase.PARKING
    parking = spare(STOPPED_POOL, phase=Phase.PARKING)
    assert only_effect(plan_for(parking, wanted=STOPPED_POOL)) is EffectKind.SHUT_DOWN
    assert only_advance(plan_for(parking, Power.STOPPED, STOPPED_POOL)).phase is Phase.STANDBY


def test_a_ready_member_of_a_running_pool_stands_by_at_once() -> None:
    ready = spare(RUNNING_POOL, phase=Phase.READY)
    assert only_advance(plan_for(ready, wanted=RUNNING_POOL)).phase is Phase.STANDBY


@pytest.mark.parametrize(
    ("wanted", "power", "phase"),
    [
        (STOPPED_POOL, Power.RUNNING, Phase.PARKING),
        (RUNNING_POOL, Power.STOPPED, Phase.STARTING),
    ],
)
def test_a_parked_member_is_brought_to_the_declared_power_state(
    wanted: ScaleSet, power: Power, phase: Phase
) -> None:
    assert only_advance(plan_for(spare(wanted, phase=Phase.STANDBY), power, wanted)).phase is phase


@pytest.mark.parametrize(("wanted", "power"), [(STOPPED_POOL, Power.STOPPED), (RUNNING_POOL, Power.RUNNING)])
def test_a_parked_member_in_the_declared_power_state_is_left_alone(wanted: ScaleSet, power: Power) -> None:
    assert plan_for(spare(wanted, phase=Phase.STANDBY), power, wanted) == MemberPlan()


@pytest.mark.parametrize("power", [Power.CRASHED, Power.ABSENT])
@pytest.mark.parametrize("phase", [Phase.PARKING, Phase.STANDBY])
def test_a_pool_machine_that_crashed_or_vanished_is_made_anew(phase: Phase, power: Power) -> None:
    step = only_advance(plan_for(spare(STOPPED_POOL, phase=phase), power, STOPPED_POOL))
    assert (step.phase, step.new_body) == (Phase.CREATING, True)


# ---- service -------------------------------------------------------------------------------------------------


def test_an_instance_in_service_is_left_alone() -> None:
    assert plan_for(member()) == MemberPlan()


@pytest.mark.parametrize("power", [Power.STOPPED, Power.HIBERNATED, Power.CRASHED, Power.ABSENT])
def test_an_instance_in_service_whose_machine_died_is_left_to_repairs(power: Power) -> None:
    assert plan_for(member(), power) == MemberPlan()


def test_a_guest_that_restarts_by_itself_waits_for_its_services_again() -> None:
    step = only_advance(plan_for(member(), rebooted=True))
    assert (step.phase, step.new_body) == (Phase.STARTING, False)
    assert only_effect(plan_for(member(phase=Phase.STARTING))) is EffectKind.AWAIT


def test_a_member_on_a_silent_host_waits_and_says_so() -> None:
    for phase in Phase:
        made = plan_for(member(phase=phase, request=Request.REMOVE), Power.UNKNOWN)
        assert made == MemberPlan(waiting="host local of web-00001 does not answer", is_stuck=True)


# ---- requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", sorted(set(Request) - {Request.START}))
def test_an_instance_in_service_is_drained_before_anything_is_done_to_it(request_: Request) -> None:
    made = plan_for(member(request=request_), balancer=behind(Rotation.READY))
    assert only_advance(made).phase is Phase.DRAINING


@pytest.mark.parametrize("request_", sorted(set(Request) - {Request.START}))
def test_an_instance_that_is_off_has_nothing_to_drain(request_: Request) -> None:
    step = only_advance(plan_for(member(request=request_), Power.STOPPED))
    assert step.phase in (Phase.CREATING, Phase.STARTING, Phase.STOPPED, Phase.DELETING)


def draining(request: Request | None = Request.REMOVE, seconds: float = 1.0) -> Member:
    return member(phase=Phase.DRAINING, request=request, phase_since=NOW - seconds)


def test_draining_waits_until_the_balancer_sends_nothing_new() -> None:
    made = plan_for(draining(), balancer=behind(Rotation.READY))
    assert made == MemberPlan(waiting="web-00001 leaves rotation")


def test_draining_looks_again_soon_while_sessions_are_under_way() -> None:
    made = plan_for(draining(), balancer=behind(Rotation.DRAIN, sessions=3))
    assert made.waiting == "web-00001 drains 3 sessions"
    assert made.until is not None
    assert NOW < made.until <= NOW + 0.1


def test_draining_looks_again_no_later_than_its_deadline() -> None:
    made = plan_for(draining(seconds=29.99), balancer=behind(Rotation.DRAIN, sessions=3))
    assert made.until == pytest.approx(NOW + 0.01)


def test_draining_ends_with_the_last_session() -> None:
    made = plan_for(draining(), balancer=behind(Rotation.DRAIN))
    assert only_advance(made).phase is Phase.DELETING


def test_draining_ends_at_the_drain_timeout_whatever_sessions_are_left() -> None:
    made = plan_for(draining(seconds=30.0), balancer=behind(Rotation.DRAIN, sessions=3))
    assert only_advance(made).phase is Phase.DELETING


def test_sessions_of_every_endpoint_count() -> None:
    endpoints = [
        {"name": "http", "listen": 8080, "port": 80},
        {"name": "admin", "listen": 8081, "port": 81},
    ]
    wanted = make_set(make_spec(endpoints=endpoints))
    servers: dict[tuple[str, str], ServerSighting] = {
        ("web.http", "web-00001"): see_server(Rotation.DRAIN, 1),
        ("web.admin", "web-00001"): see_server(Rotation.DRAIN, 2),
    }
    one = make_member(wanted, phase=Phase.DRAINING, request=Request.REMOVE, phase_since=NOW)
    made = plan_for(one, wanted=wanted, balancer=BalancerSighting(True, "", servers))
    assert made.waiting == "web-00001 drains 3 sessions"


def test_a_reimage_starts_a_new_body_of_the_same_member() -> None:
    step = only_advance(plan_for(draining(Request.REIMAGE), balancer=behind(Rotation.DRAIN)))
    assert (step.phase, step.new_body, step.answered) == (Phase.CREATING, True, True)


def test_a_restart_shuts_the_guest_down_and_starts_the_same_machine() -> None:
    restarting = draining(Request.RESTART)
    assert only_effect(plan_for(restarting, balancer=behind(Rotation.DRAIN))) is EffectKind.SHUT_DOWN
    step = only_advance(plan_for(restarting, Power.STOPPED))
    assert (step.phase, step.new_body, step.answered) == (Phase.STARTING, False, True)


def test_a_drain_that_nobody_asked_for_any_more_returns_to_service() -> None:
    assert only_advance(plan_for(draining(None), balancer=behind(Rotation.DRAIN))).phase is Phase.STARTING


def test_a_removal_takes_even_a_failed_or_half_made_member() -> None:
    for phase in (Phase.CREATING, Phase.PROVISIONING, Phase.STARTING, Phase.FAILED):
        step = only_advance(plan_for(member(phase=phase, request=Request.REMOVE)))
        assert step.phase is Phase.DELETING


def test_a_member_being_deleted_is_destroyed_until_it_is_gone() -> None:
    for power in (Power.RUNNING, Power.STOPPED, Power.CRASHED, Power.ABSENT):
        assert only_effect(plan_for(member(phase=Phase.DELETING), power)) is EffectKind.DESTROY


def test_a_drain_says_what_it_is_for() -> None:
    asked = member(request=Request.REMOVE, reason="web is scaled in to 1")
    assert only_advance(plan_for(asked)).reason == "draining web-00001: web is scaled in to 1"


# ---- failure and model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [Power.RUNNING, Power.STOPPED, Power.CRASHED])
def test_what_is_left_of_a_failed_machine_is_removed(power: Power) -> None:
    assert only_effect(plan_for(member(phase=Phase.FAILED, failures=1), power)) is EffectKind.DESTROY


def test_a_failed_member_waits_for_its_pause_and_says_why_it_failed() -> None:
    failed = member(phase=Phase.FAILED, failures=1, phase_since=NOW, reason="setup failed")
    made = plan_for(failed, Power.ABSENT)
    assert made == MemberPlan(waiting="web-00001 failed: setup failed", until=NOW + 30, is_stuck=True)


def test_a_failed_member_is_tried_again_with_a_new_body_when_its_pause_is_over() -> None:
    failed = member(phase=Phase.FAILED, failures=1, phase_since=NOW - 30)
    step = only_advance(plan_for(failed, Power.ABSENT))
    assert (step.phase, step.new_body) == (Phase.CREATING, True)
    assert "failures: 1" in step.reason


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.PROVISIONING])
def test_a_member_that_is_not_done_yet_starts_over_when_the_model_changes(phase: Phase) -> None:
    step = only_advance(plan_for(member(phase=phase, model="old")))
    assert (step.phase, step.new_body) == (Phase.CREATING, True)


def test_an_instance_in_service_keeps_its_model() -> None:
    assert plan_for(member(model="old")) == MemberPlan()


# ---- hibernated pools ----------------------------------------------------------------------------------------

HIBERNATED_POOL = make_set(make_spec(standby={"state": "hibernated", "max_ready": 4}))


def hibernating(phase: Phase, parked: PoolState | None = PoolState.HIBERNATED) -> Member:
    return spare(HIBERNATED_POOL, phase=phase, parked=parked)


def test_a_ready_member_is_hibernated_for_a_hibernated_pool() -> None:
    step = only_advance(plan_for(hibernating(Phase.READY, None), wanted=HIBERNATED_POOL))
    assert (step.phase, step.parked) == (Phase.PARKING, PoolState.HIBERNATED)
    assert only_effect(plan_for(hibernating(Phase.PARKING), wanted=HIBERNATED_POOL)) is EffectKind.HIBERNATE
    done = plan_for(hibernating(Phase.PARKING), Power.HIBERNATED, HIBERNATED_POOL)
    assert only_advance(done).phase is Phase.STANDBY
    assert plan_for(hibernating(Phase.STANDBY), Power.HIBERNATED, HIBERNATED_POOL) == MemberPlan()


@pytest.mark.parametrize("phase", [Phase.PARKING, Phase.STANDBY])
def test_a_member_that_lost_its_memory_is_started_and_hibernated_anew(phase: Phase) -> None:
    step = only_advance(plan_for(hibernating(phase), Power.STOPPED, HIBERNATED_POOL))
    assert step.phase is Phase.STARTING


@pytest.mark.parametrize(
    ("wanted", "parked", "power", "phase"),
    [
        (HIBERNATED_POOL, PoolState.RUNNING, Power.RUNNING, Phase.PARKING),
        (RUNNING_POOL, PoolState.HIBERNATED, Power.HIBERNATED, Phase.STARTING),
        (STOPPED_POOL, PoolState.HIBERNATED, Power.HIBERNATED, Phase.STARTING),
        (HIBERNATED_POOL, PoolState.STOPPED, Power.STOPPED, Phase.STARTING),
    ],
)
def test_a_change_of_state_goes_through_running(
    wanted: ScaleSet, parked: PoolState, power: Power, phase: Phase
) -> None:
    parked_member = spare(wanted, phase=Phase.STANDBY, parked=parked)
    assert only_advance(plan_for(parked_member, power, wanted)).phase is phase


# ---- stop and start ------------------------------------------------------------------------------------------


def test_a_stopped_instance_is_switched_off_and_left_so() -> None:
    made = only_advance(plan_for(draining(Request.STOP), balancer=behind(Rotation.DRAIN)))
    assert (made.phase, made.answered) == (Phase.STOPPED, True)
    stopped = member(phase=Phase.STOPPED)
    assert only_effect(plan_for(stopped)) is EffectKind.SHUT_DOWN
    for power in (Power.STOPPED, Power.HIBERNATED, Power.CRASHED, Power.ABSENT):
        assert plan_for(stopped, power) == MemberPlan()


def test_a_stopped_instance_starts_when_it_is_asked_to() -> None:
    step = only_advance(plan_for(member(phase=Phase.STOPPED, request=Request.START), Power.STOPPED))
    assert (step.phase, step.answered) == (Phase.STARTING, True)


def test_a_start_that_comes_too_late_disturbs_nobody() -> None:
    step = only_advance(plan_for(member(request=Request.START), balancer=behind(Rotation.READY)))
    assert (step.phase, step.answered) == (Phase.IN_SERVICE, True)


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.PROVISIONING])
def test_a_stop_waits_until_a_machine_is_set_up(phase: Phase) -> None:
    kind = only_effect(plan_for(member(phase=phase, request=Request.STOP)))
    assert kind in (EffectKind.CREATE, EffectKind.PROVISION)


@pytest.mark.parametrize("phase", [Phase.READY, Phase.STARTING])
def test_whoever_hibernated_a_machine_its_guest_is_told_the_time_after(phase: Phase) -> None:
    made = plan_for(member(phase=phase), Power.HIBERNATED)
    if phase is Phase.STARTING:
        assert only_effect(made) is EffectKind.START
    else:
        assert only_advance(made).parked is PoolState.HIBERNATED


def test_a_member_of_an_older_store_is_recorded_in_the_state_a_mix_gives_it() -> None:
    mixed = make_set(make_spec(standby={"max_ready": 4, "state": {"running": "20%", "stopped": "80%"}}))
    old = spare(mixed, phase=Phase.STANDBY)
    seen = see_machine(old, Power.RUNNING)
    view = MemberView(old, mixed, seen, see_balancer(mixed), NOW, Limits(), PoolState.RUNNING)
    step = only_advance(plan_member(view))
    assert (step.phase, step.parked) == (Phase.STANDBY, PoolState.RUNNING)
