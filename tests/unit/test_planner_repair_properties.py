"""What repairs promise about any instances of a set: never too many out of service at once, nobody forgotten, no
disk thrown away that was to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Advance, Repair
from orchestrator.planner import Limits
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.repair import Moment, Repairs, plan_repairs
from tests.builders import NOW, make_member, make_set, make_spec, see_balancer, see_server, see_world
from tests.unit.examples import many
from tests.unit.worlds import OLD_MODEL, PHASES

OFF = (Power.STOPPED, Power.HIBERNATED, Power.CRASHED, Power.ABSENT)


@dataclass(frozen=True)
class Ward:
    """The instances of one set, their machines, who does not answer, and whether the rollout is stopped."""

    wanted: ScaleSet
    instances: tuple[Member, ...]
    powers: dict[str, Power]
    silent: frozenset[str]
    is_stopped: bool

    def repairs(self) -> Repairs:
        servers = {one.name: see_server(is_up=one.name not in self.silent) for one in self.instances}
        seen = see_world(balancer=see_balancer(self.wanted, servers))
        moment = Moment(self.powers, frozenset(), seen, NOW, Limits(), self.is_stopped)
        return plan_repairs(self.wanted, list(self.instances), moment)

    @property
    def away(self) -> list[Member]:
        """Who has served, is expected back, and is not there."""
        return [
            one
            for one in self.instances
            if one.served
            and (one.phase not in (Phase.IN_SERVICE, Phase.STOPPED) or one.request is not None)
            and not (one.failures >= MAX_TRIES and _is_failed_or_held(one))
        ]

    @property
    def room(self) -> int:
        share = self.wanted.spec.repair.max_unhealthy
        return max(max(len(self.instances) * share // 100, 1) - len(self.away), 0)

    @property
    def patients(self) -> list[Member]:
        """In service, and to be repaired as soon as there is room: nothing else is waited for."""
        return [
            one
            for one in self.instances
            if one.phase is Phase.IN_SERVICE
            and one.request is None
            and one.failures < MAX_TRIES
            and (self.powers[one.name] in OFF or one.name in self.silent)
        ]


@st.composite
def wards(draw: st.DrawFn) -> Ward:
    action = draw(st.sampled_from(["restart", "reimage", "replace"]))
    repair = {"action": action, "grace": "1min", "max_unhealthy": draw(st.sampled_from(["1%", "20%", "50%"]))}
    count = draw(st.integers(1, 8))
    wanted = make_set(make_spec(instances=count, repair=repair))
    instances = tuple(draw(_instances(wanted, number)) for number in range(1, count + 1))
    return Ward(
        wanted,
        instances,
        {one.name: draw(st.sampled_from([Power.RUNNING, Power.RUNNING, *OFF])) for one in instances},
        frozenset(one.name for one in instances if draw(st.booleans())),
        draw(st.booleans()),
    )


@st.composite
def _instances(draw: st.DrawFn, wanted: ScaleSet, number: int) -> Member:
    """Ill for long, and whose pause is over, if it is ill at all."""
    staying = [phase for phase in PHASES[Role.INSTANCE] if phase is not Phase.DELETING]
    phase = draw(st.sampled_from([*staying, *[Phase.IN_SERVICE] * 8]))
    in_service = phase is Phase.IN_SERVICE
    fields: dict[str, Any] = {
        "phase": phase,
        "request": draw(st.sampled_from([None, None, None, Request.RESTART])) if in_service else None,
        "failures": draw(st.sampled_from([0, 0, 1, MAX_TRIES])),
        "served": in_service or draw(st.booleans()),
        "model": draw(st.sampled_from([wanted.model, OLD_MODEL])),
        "phase_since": NOW - 10_000.0,
        "unhealthy_since": NOW - 1000.0
        if in_service or (phase is Phase.STARTING and draw(st.booleans()))
        else None,
    }
    return make_member(wanted, f"{number:05}", **fields)


def taken(made: Repairs) -> set[str]:
    """Who goes out of service, or gives its place away: a plain start takes nobody out."""
    anew = [one.member for one in made.steps if isinstance(one, Advance) and one.new_body]
    asked = [one.member for one in made.steps if isinstance(one, Repair)]
    return {one.name for one in (*anew, *asked, *(member for member, _ in made.replaced))}


def started(made: Repairs) -> set[str]:
    return {one.member.name for one in made.steps if isinstance(one, Advance) and one.phase is Phase.STARTING}


@many
@given(wards())
def test_not_more_go_out_of_service_than_there_is_room_for_and_as_many_as_there_is(ward: Ward) -> None:
    made = ward.repairs()
    begun = taken(made)
    event(f"{len(begun)} of {ward.room}")
    # Whom nobody may make anew now needs no room, and has none.
    lost = {one.name for one in ward.patients if _is_kept_from_the_new_model(ward, one)}
    needing = {one.name for one in ward.patients} - started(made) - lost
    assert begun <= needing
    assert len(begun) == min(ward.room, len(needing))


@many
@given(wards())
def test_a_machine_that_is_only_off_is_started_whoever_else_is_away(ward: Ward) -> None:
    off = {one.name for one in ward.patients if ward.powers[one.name] in (Power.STOPPED, Power.HIBERNATED)}
    assert off <= started(ward.repairs())


@many
@given(wards())
def test_no_disk_is_thrown_away_that_is_to_be_kept(ward: Ward) -> None:
    made = ward.repairs()
    steps = [*made.steps, *(step for _, step in made.replaced)]
    for step in steps:
        if not isinstance(step, Advance | Repair):
            continue
        member, power = step.member, ward.powers[step.member.name]
        costs_disk = step.new_body if isinstance(step, Advance) else step.request is not Request.RESTART
        if costs_disk:
            assert power is Power.ABSENT or ward.wanted.spec.repair.action != "restart"
            assert not (ward.is_stopped and member.model != ward.wanted.model)


def _is_failed_or_held(member: Member) -> bool:
    return member.phase is Phase.FAILED or (member.phase is Phase.STARTING and member.unhealthy_since is not None)


def _is_kept_from_the_new_model(ward: Ward, member: Member) -> bool:
    is_older = ward.is_stopped and member.model != ward.wanted.model
    return is_older and ward.powers[member.name] is Power.ABSENT
