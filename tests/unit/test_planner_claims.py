"""What a machine that was just started waits for, planned before the next look."""

from __future__ import annotations

import pytest

from orchestrator.models.members import Phase
from orchestrator.models.sightings import Power
from orchestrator.models.steps import EffectKind
from orchestrator.planner.claims import plan_claimed, see_running
from tests.builders import NOW, PREFIX, make_member, make_members, make_set, see_host, see_machine, see_world, wish


@pytest.mark.parametrize("power", [Power.STOPPED, Power.HIBERNATED, Power.CRASHED])
def test_its_services_are_asked_as_soon_as_it_was_started(power: Power) -> None:
    wanted = make_set()
    started, other = make_members(wanted, 2, phase=Phase.STARTING)
    seen = see_world(see_host(see_machine(started, power), see_machine(other, power)))
    now_seen = see_running(started, PREFIX, seen)
    effects = plan_claimed(wish(wanted, members=[started, other]), now_seen, {}, NOW, {started.name})
    assert [(one.kind, one.member) for one in effects] == [(EffectKind.AWAIT, started)]
    assert now_seen.hosts["local"].machines[f"{PREFIX}-{other.name}"].power is power


def test_nothing_is_begun_for_a_machine_that_was_not_seen() -> None:
    wanted = make_set()
    started = make_member(wanted, phase=Phase.STARTING)
    another_body = see_machine(started, incarnation=started.incarnation + 1)
    for host in (see_host(), see_host(answers=False), see_host(another_body)):
        seen = see_world(host)
        assert see_running(started, PREFIX, seen) is seen
