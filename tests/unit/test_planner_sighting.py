"""How a member's machine is found in what was seen."""

from __future__ import annotations

import pytest

from orchestrator.models.members import Phase
from orchestrator.models.sightings import HostSighting, Power
from orchestrator.planner.world import sighting_of
from tests.builders import PREFIX, make_member, see_host, see_machine, see_world

MEMBER = make_member(incarnation=3)


@pytest.mark.parametrize("power", [Power.RUNNING, Power.STOPPED, Power.CRASHED])
def test_a_machine_is_found_under_its_members_name(power: Power) -> None:
    seen = see_machine(MEMBER, power)
    assert sighting_of(MEMBER, PREFIX, see_world(see_host(seen))) == seen


def test_a_machine_that_is_not_there_is_absent() -> None:
    assert sighting_of(MEMBER, PREFIX, see_world(see_host())).power is Power.ABSENT


def test_a_machine_on_another_host_is_not_this_one() -> None:
    world = see_world(see_host(), see_host(see_machine(MEMBER), name="other"))
    assert sighting_of(MEMBER, PREFIX, world).power is Power.ABSENT


def test_nothing_is_known_of_a_machine_whose_host_is_silent_or_not_configured() -> None:
    silent = see_world(HostSighting("local", "a", answers=False))
    assert sighting_of(MEMBER, PREFIX, silent).power is Power.UNKNOWN
    assert sighting_of(MEMBER, PREFIX, see_world()).power is Power.UNKNOWN


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.FAILED, Phase.DELETING)])
def test_an_earlier_body_is_not_this_machine(phase: Phase) -> None:
    member = make_member(incarnation=3, phase=phase)
    world = see_world(see_host(see_machine(member, incarnation=2)))
    assert sighting_of(member, PREFIX, world).power is Power.ABSENT


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.DELETING])
def test_an_earlier_body_is_seen_where_whatever_is_left_is_removed(phase: Phase) -> None:
    member = make_member(incarnation=3, phase=phase)
    world = see_world(see_host(see_machine(member, incarnation=2)))
    assert sighting_of(member, PREFIX, world).power is Power.RUNNING
