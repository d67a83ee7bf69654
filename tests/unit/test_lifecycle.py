"""The life-cycle tables are complete and agree with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from orchestrator.lifecycle.table import AFTER_SUCCESS, ANSWER, FATAL, HOPELESS, TABLE, Action
from orchestrator.models.members import Phase, PoolState, Request, Role
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Advance, Effect, EffectKind, Step
from orchestrator.planner import Limits
from orchestrator.planner.member import MemberView, plan_member
from tests.builders import NOW, make_member, make_set, make_spec, see_balancer, see_machine
from tests.unit.worlds import HOOKS, OLD_MODEL, PHASES, requests_of


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_has_an_action_for_every_power_that_can_be_seen(phase: Phase) -> None:
    assert set(TABLE[phase]) == set(Power) - {Power.UNKNOWN}


def test_every_action_is_used() -> None:
    assert {action for row in TABLE.values() for action in row.values()} == set(Action)


def every_step() -> Iterator[Step]:
    """Every step the planner makes for one member, over all records and sightings of it."""
    for state, wish in product((*PoolState, None), range(2)):
        pool = {"state": state, "max_ready": 4} if state else None
        wanted = make_set(make_spec(standby=pool, instances=wish, hooks=HOOKS[-1]))
        for role in Role:
            for phase, power, model in product(PHASES[role], TABLE[Phase.READY], (wanted.model, OLD_MODEL)):
                for request in requests_of(role, phase):
                    member = make_member(
                        wanted, role=role, phase=phase, request=request, model=model, phase_since=0.0
                    )
                    for rebooted, entered, is_told in product((False, True), repeat=3):
                        member = replace(member, entered=entered, told=member.told if is_told else None)
                        seen = see_machine(member, power, rebooted=rebooted)
                        balancer = see_balancer(wanted)
                        view = MemberView(member, wanted, seen, balancer, NOW, Limits(), wanted.pool_state)
                        yield from plan_member(view).steps
                        yield from plan_member(replace(view, may_fork=True)).steps
                        yield from plan_member(replace(view, is_stopped=True)).steps


def test_every_effect_that_is_planned_has_a_following_phase() -> None:
    planned = {(step.member.phase, step.kind) for step in every_step() if isinstance(step, Effect)}
    assert planned - set(AFTER_SUCCESS) == set()
    # Of whom a golden image is taken is not the matter of one member.
    assert {kind for _, kind in planned} == set(EffectKind) - {EffectKind.TAKE_GOLDEN}


@pytest.mark.parametrize("phase", [Phase.STANDBY, Phase.PARKING, Phase.IN_SERVICE])
def test_a_golden_image_changes_nothing_about_whom_it_is_taken_of(phase: Phase) -> None:
    assert AFTER_SUCCESS[phase, EffectKind.TAKE_GOLDEN] is phase
    assert (phase, EffectKind.TAKE_GOLDEN) not in FATAL


def test_every_advance_leads_to_another_phase_or_a_new_body() -> None:
    for step in every_step():
        if isinstance(step, Advance):
            is_other = step.phase is not step.member.phase
            assert is_other or step.new_body or step.answered or step.is_held or step.asks, step.reason


def test_a_new_body_always_begins_with_its_creation() -> None:
    for step in every_step():
        if isinstance(step, Advance):
            assert step.new_body == (step.phase is Phase.CREATING), step.reason


def test_only_a_removal_ends_the_record() -> None:
    assert [key for key, phase in AFTER_SUCCESS.items() if phase is None] == [(Phase.DELETING, EffectKind.DESTROY)]


def test_only_making_and_parking_a_machine_and_waiting_for_it_can_condemn_it() -> None:
    assert {
        (Phase.CREATING, EffectKind.CREATE),
        (Phase.CREATING, EffectKind.FORK),
        (Phase.PROVISIONING, EffectKind.PROVISION),
        (Phase.STARTING, EffectKind.AWAIT),
        (Phase.STARTING, EffectKind.TELL),
        (Phase.PARKING, EffectKind.SHUT_DOWN),
        (Phase.PARKING, EffectKind.HIBERNATE),
    } == FATAL
    assert set(AFTER_SUCCESS) >= FATAL


def test_only_waiting_for_a_guest_is_hopeless_and_never_because_its_host_is_silent() -> None:
    assert set(HOPELESS) == {EffectKind.PROVISION, EffectKind.AWAIT, EffectKind.TELL}
    assert all(powers == set(Power) - {Power.RUNNING, Power.UNKNOWN} for powers in HOPELESS.values())


def test_every_request_but_a_restart_is_answered_by_a_phase() -> None:
    assert set(ANSWER) == set(Request) - {Request.RESTART}
