"""What guests are told, and when hooks run, by example."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models.members import GuestPhase, Member, Phase, Request, Role, ScaleSet
from orchestrator.models.sightings import Power, Rotation
from orchestrator.models.spec import model_digest
from orchestrator.models.steps import EffectKind, Interrupt, Step
from orchestrator.planner import plan
from orchestrator.planner.balancer import rotation_of
from orchestrator.planner.member import MemberPlan
from tests.builders import (
    NOW,
    make_member,
    make_set,
    make_spec,
    see_balancer,
    see_host,
    see_machine,
    see_server,
    see_world,
    wish,
)
from tests.unit.test_planner_member import only_advance, only_effect, plan_for

HOOKS = {"on_claim": ["come"], "on_drain": ["go"]}
PLAIN = make_set(make_spec(standby={"state": "running", "max_ready": 4}))
HOOKED = make_set(make_spec(standby={"state": "running", "max_ready": 4}, hooks=HOOKS))
WITHOUT_KEYS = (
    {"answer_file": "none"},
    {"answer_file": "unattend", "windows": {"administrator_password_file": "/secrets/admin.txt"}},
)
OTHERS = [make_set(make_spec(standby={"state": "running", "max_ready": 4}, setup=one)) for one in WITHOUT_KEYS]


def only_reason(made: MemberPlan) -> str:
    assert only_effect(made) is EffectKind.TELL
    return made.steps[0].reason


def spare(**fields: Any) -> Member:
    return make_member(PLAIN, role=Role.STANDBY, **fields)


def drained(seconds: float = 1.0, told: GuestPhase | None = GuestPhase.IN_SERVICE) -> Member:
    since = NOW - seconds
    return make_member(HOOKED, phase=Phase.DRAINING, request=Request.REMOVE, phase_since=since, told=told)


# ---- the phase -----------------------------------------------------------------------------------------------


def test_a_pool_member_is_told_before_it_is_parked() -> None:
    made = plan_for(spare(phase=Phase.READY, told=None), wanted=PLAIN)
    assert only_reason(made) == "telling web-00001 that it stands by"
    assert only_advance(plan_for(spare(phase=Phase.READY), wanted=PLAIN)).phase is Phase.STANDBY


def test_a_running_pool_member_that_was_never_told_is_told() -> None:
    assert only_reason(plan_for(spare(phase=Phase.STANDBY, told=None), wanted=PLAIN))
    assert plan_for(spare(phase=Phase.STANDBY), wanted=PLAIN) == MemberPlan()


def test_a_running_pool_member_that_restarts_by_itself_is_waited_for_and_told_again() -> None:
    step = only_advance(plan_for(spare(phase=Phase.STANDBY), wanted=PLAIN, rebooted=True))
    assert (step.phase, step.new_body) == (Phase.STARTING, False)


def test_without_hooks_rotation_does_not_wait_until_the_guest_is_told() -> None:
    claimed = make_member(PLAIN, phase=Phase.STARTING, told=None, entered=False)
    assert only_effect(plan_for(claimed, wanted=PLAIN)) is EffectKind.AWAIT
    ready = make_member(PLAIN, phase=Phase.READY, told=None, entered=False)
    balancer = see_balancer(PLAIN, {"web-00001": see_server()})
    assert only_advance(plan_for(ready, wanted=PLAIN, balancer=balancer)).phase is Phase.IN_SERVICE
    serving = make_member(PLAIN, told=None)
    assert only_reason(plan_for(serving, wanted=PLAIN)) == "telling web-00001 that it is in service"
    assert plan_for(make_member(PLAIN), wanted=PLAIN) == MemberPlan()


def test_a_draining_instance_is_told_once_it_has_left_rotation() -> None:
    balancer = see_balancer(PLAIN, {"web-00001": see_server(Rotation.READY)})
    one = make_member(PLAIN, phase=Phase.DRAINING, request=Request.STOP, phase_since=NOW, told=None)
    assert not plan_for(one, wanted=PLAIN, balancer=balancer).steps
    out = see_balancer(PLAIN, {"web-00001": see_server(Rotation.DRAIN, 3)})
    assert only_reason(plan_for(one, wanted=PLAIN, balancer=out)) == "telling web-00001 that it is being drained"


def test_without_on_drain_telling_holds_up_no_drain_that_is_over() -> None:
    late = make_member(PLAIN, phase=Phase.DRAINING, request=Request.REMOVE, phase_since=NOW - 30, told=None)
    assert only_advance(plan_for(late, wanted=PLAIN)).phase is Phase.DELETING


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("phase", [Phase.READY, Phase.STANDBY])
def test_a_guest_without_our_keys_is_never_told_in_the_pool(phase: Phase, others: ScaleSet) -> None:
    made = plan_for(make_member(others, role=Role.STANDBY, phase=phase, told=None), wanted=others)
    assert not [step for step in made.steps if getattr(step, "kind", None) is EffectKind.TELL]


@pytest.mark.parametrize("others", OTHERS)
def test_a_guest_without_our_keys_is_never_told_in_service(others: ScaleSet) -> None:
    assert plan_for(make_member(others, told=None), wanted=others) == MemberPlan()
    leaving = make_member(others, phase=Phase.DRAINING, request=Request.REMOVE, told=None)
    assert only_advance(plan_for(leaving, wanted=others)).phase is Phase.DELETING


# ---- on_claim ------------------------------------------------------------------------------------------------


def test_on_claim_runs_before_the_services_of_a_claimed_member_are_asked() -> None:
    claimed = make_member(HOOKED, phase=Phase.STARTING, entered=False)
    assert only_reason(plan_for(claimed, wanted=HOOKED)) == "running on_claim in web-00001"
    assert only_effect(plan_for(claimed, Power.STOPPED, HOOKED)) is EffectKind.START
    entered = make_member(HOOKED, phase=Phase.STARTING, entered=True)
    assert only_effect(plan_for(entered, wanted=HOOKED)) is EffectKind.AWAIT


def test_an_instance_made_cold_stays_out_of_rotation_until_its_on_claim_has_run() -> None:
    ready = make_member(HOOKED, phase=Phase.READY, entered=False)
    assert rotation_of(ready, HOOKED, Power.RUNNING) is Rotation.MAINT
    assert only_advance(plan_for(ready, wanted=HOOKED)).phase is Phase.STARTING
    assert rotation_of(ready, PLAIN, Power.RUNNING) is Rotation.READY


def test_a_pool_member_runs_no_on_claim() -> None:
    waking = make_member(HOOKED, role=Role.STANDBY, phase=Phase.STARTING, told=None)
    assert only_effect(plan_for(waking, wanted=HOOKED)) is EffectKind.AWAIT


# ---- on_drain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [0, 3])
@pytest.mark.parametrize("seconds", [1.0, 1000.0])
def test_on_drain_runs_whatever_sessions_and_time_are_left(sessions: int, seconds: float) -> None:
    out = see_balancer(HOOKED, {"web-00001": see_server(Rotation.DRAIN, sessions)})
    made = plan_for(drained(seconds), wanted=HOOKED, balancer=out)
    assert only_reason(made) == "running on_drain in web-00001"


def test_a_drain_ends_when_its_hook_has_and_the_sessions_have() -> None:
    done = drained(told=GuestPhase.DRAINING)
    out = see_balancer(HOOKED, {"web-00001": see_server(Rotation.DRAIN, 3)})
    assert plan_for(done, wanted=HOOKED, balancer=out).waiting == "web-00001 drains 3 sessions"
    assert only_advance(plan_for(done, wanted=HOOKED)).phase is Phase.DELETING


def test_on_drain_runs_even_if_the_balancer_cannot_be_changed() -> None:
    stuck = see_balancer(HOOKED, {"web-00001": see_server(Rotation.READY)}, trouble="no space left")
    assert plan_for(drained(), wanted=HOOKED, balancer=stuck).waiting == "no space left"
    assert only_reason(plan_for(drained(1000.0), wanted=HOOKED, balancer=stuck))


def test_a_machine_that_is_off_has_nothing_to_drain() -> None:
    assert only_advance(plan_for(drained(), Power.STOPPED, HOOKED)).phase is Phase.DELETING


# ---- work under way ------------------------------------------------------------------------------------------


def interrupts(member: Member, power: Power = Power.RUNNING) -> list[Step]:
    host = see_host(see_machine(member, power))
    made = plan(wish(HOOKED, members=[member]), see_world(host), {member.name: EffectKind.TELL}, NOW)
    return [step for step in made.steps if isinstance(step, Interrupt)]


def test_what_a_drain_is_for_does_not_cut_its_hook_short() -> None:
    assert interrupts(drained()) == []


def test_a_hook_in_a_machine_that_is_off_is_given_up() -> None:
    assert interrupts(drained(), Power.STOPPED)


def test_a_claim_that_is_not_wanted_any_more_is_cut_short() -> None:
    assert interrupts(make_member(HOOKED, phase=Phase.STARTING, request=Request.REMOVE, entered=False))
    assert not interrupts(make_member(HOOKED, phase=Phase.STARTING, entered=False))


# ---- the spec ------------------------------------------------------------------------------------------------


def test_hooks_make_no_other_model() -> None:
    assert model_digest(HOOKED.spec, "d") == model_digest(PLAIN.spec, "d")


def test_hooks_have_half_a_minute_unless_they_are_given_another_time() -> None:
    assert HOOKED.spec.hooks.timeout == 30.0
    assert make_spec(hooks={"on_drain": ["go"], "timeout": "2min"}).hooks.timeout == 120.0


@pytest.mark.parametrize("hooks", [{"timeout": "0s"}, {"on_claim": [""]}, {"on_claim": "go"}, {"on_start": []}])
def test_hooks_that_cannot_be_meant_are_refused(hooks: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="hooks"):
        make_spec(hooks=hooks)


@pytest.mark.parametrize("setup", WITHOUT_KEYS)
def test_hooks_need_a_guest_with_our_keys(setup: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'hooks' need 'answer_file: cloud-init'"):
        make_spec(hooks=HOOKS, setup=setup)
