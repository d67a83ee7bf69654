"""The plan of one look at the world: members first, then sizes, then the load balancer.

Pure: the same wish, sighting, work under way and moment give the same steps. A converged world gives none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.lifecycle.table import HOPELESS, UNFINISHED
from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import MachineSighting, Observed, Power
from orchestrator.models.steps import (
    Claim,
    ConvergeBalancer,
    Effect,
    EffectKind,
    ForgetSet,
    Interrupt,
    Plan,
    RemoveLeak,
    Renew,
    Resume,
    Retire,
    Settle,
    Step,
)
from orchestrator.planner.balancer import desired_balancer
from orchestrator.planner.boots import Boots, plan_waits
from orchestrator.planner.golden import Goldens
from orchestrator.planner.member import MemberPlan, MemberView, plan_member
from orchestrator.planner.parking import assign_states, parked_state, pool_of
from orchestrator.planner.placement import Placement
from orchestrator.planner.pool_condition import note_pool
from orchestrator.planner.refill import plan_refill
from orchestrator.planner.repair import Moment, plan_repairs
from orchestrator.planner.rollout import (
    Rollout,
    RolloutState,
    SetView,
    note_rollout,
    plan_rollout,
    replaces_in_place,
    view_set,
)
from orchestrator.planner.sizing import Demands, Sizing, is_growing, plan_sizes
from orchestrator.planner.spreading import is_stray
from orchestrator.planner.strangers import plan_hold, strangers, unrecorded
from orchestrator.planner.world import Desired, sighting_of

Suspects = frozenset[tuple[str, str]]  # (host, domain)
LEAK_LOOK = 1.0  # seconds between the two sightings of a leak


def plan(
    desired: Desired,
    observed: Observed,
    busy: Mapping[str, EffectKind],
    now: float,
    suspects: Suspects = frozenset(),
) -> Plan:
    """Steps that bring `observed` closer to `desired`.

    `busy` names the members whose effect is under way (nothing else is planned for them), `suspects` the
    (host, domain) pairs that looked like leaks, or that nobody knew, the last time. While the store does not know
    what it should, nothing is planned (`planner.strangers`).
    """
    unknown = strangers(desired, observed)
    if desired.hold or unknown:
        held = plan_hold(desired, unknown, suspects)
        return replace(held, wake_at=None if held.steps or desired.hold else now + LEAK_LOOK)
    by_set: dict[str, list[Member]] = {wanted.name: [] for wanted in desired.sets}
    for member in desired.members:
        by_set.setdefault(member.set_name, []).append(member)
    placement = Placement.of(desired, observed)
    goldens = Goldens(desired, observed, busy, now)
    # What is under way for a golden image holds up nothing but what needs the same machine.
    others = {name: kind for name, kind in busy.items() if kind is not EffectKind.TAKE_GOLDEN}
    config = desired_balancer(desired, observed)
    matches = _balancer_matches(config.digest(), bool(config.frontends), observed)
    steps: list[Step] = [] if matches else [ConvergeBalancer(config, _balancer_reason(observed))]
    wakes: list[float] = []
    context = (desired, observed, others, now, matches, goldens)
    # Between sets too, memory is given to missing instances first, then to what a rollout makes beforehand, and to
    # refills last.
    ordered = sorted(desired.sets, key=lambda one: not is_growing(one, by_set[one.name]))
    plans = [_plan_instances(wanted, by_set[wanted.name], context, placement) for wanted in ordered]
    placement.begin_refills()
    for one in plans:
        steps += _plan_reserve(one, context, placement)
        wakes += one.wakes
    steps = goldens.add(steps)
    wakes += goldens.wakes
    leaks = unrecorded(desired.members, desired.prefix, observed)
    steps += [
        RemoveLeak(host, domain, f"no record names machine {domain} on {host}, seen twice")
        for host, domain in sorted(leaks & suspects)
    ]
    steps += _resumptions(desired, observed, busy)
    if leaks - suspects:
        wakes.append(now + LEAK_LOOK)
    boots = Boots(desired, observed, busy, now)
    begun = boots.hold(sorted(steps, key=lambda step: (_urgency(step), not boots.is_floor(step))))
    waits = plan_waits([*goldens.waiting, *boots.waiting])
    wakes += boots.wakes
    return Plan((*waits, *begun), min(wakes, default=None), leaks - suspects)


Context = tuple[Desired, Observed, Mapping[str, EffectKind], float, bool, Goldens]
"""Wish, sighting, work under way, moment, whether the load balancer is as it should be, and golden images."""


@dataclass
class _SetPlan:
    """One set, its instances planned; its pool waits until those of all sets are."""

    view: SetView
    members: list[Member]
    rollout: Rollout
    sizing: Sizing
    steps: list[Step]
    waits: list[MemberPlan]
    wakes: list[float] = field(default_factory=list)


def _plan_instances(wanted: ScaleSet, members: list[Member], context: Context, placement: Placement) -> _SetPlan:
    desired, observed, busy, now, _, goldens = context
    has_room = placement.has_room(wanted.spec.machine.memory, wanted.spec.zones)
    view = view_set(wanted, members, (desired.prefix, observed), has_room, now)
    rollout = plan_rollout(view, replaces_in_place(wanted))
    steps, waits = _plan_members(wanted, members, context, rollout)
    is_stopped = rollout.state is RolloutState.STOPPED
    moment = Moment(view.powers, frozenset(busy), observed, now, desired.limits, is_stopped)
    repairs = plan_repairs(wanted, members, moment)
    steps += repairs.steps
    waits += [MemberPlan(waiting=words, is_stuck=True) for words in repairs.waiting]
    waits = rollout.add_waiting(waits)
    wakes = [wait.until for wait in waits if wait.until is not None] + repairs.wakes
    demands = Demands(repairs.replaced, rollout.turnover, goldens.sources)
    sizing = plan_sizes(wanted, members, view.powers, frozenset(busy), placement, demands)
    return _SetPlan(view, members, rollout, sizing, steps, waits, wakes)


def _plan_reserve(one: _SetPlan, context: Context, placement: Placement) -> list[Step]:
    """All steps of the set: those for its pool, what is told, and what it waits for."""
    _, observed, busy, _, balancer_matches, _ = context
    wanted, members, sizing, waits = one.view.wanted, one.members, one.sizing, one.waits
    stuck, sizes = sizing.stuck, list(sizing.steps)
    if sizing.refill is not None:
        refill, why = plan_refill(wanted, sizing.refill, placement)
        stuck, sizes = stuck or why, sizes + refill
    sized = {step.member.name for step in sizes if isinstance(step, Claim | Retire | Renew)}
    steps = [step for step in one.steps if isinstance(step, Interrupt) or _member_of(step) not in sized]
    in_place = [member for member in members if not is_stray(member, wanted, placement)]
    told, pool_told = note_rollout(one.view, one.rollout), note_pool(wanted, in_place, one.view.powers)
    steps = [*([told] if told else []), *steps, *sizes, *([pool_told] if pool_told else [])]
    if _is_under_way(steps, members, observed, busy):
        return steps
    waits += [MemberPlan(waiting=observed.troubled[_member_of(step)], is_stuck=True) for step in steps]
    if wanted.spec.endpoints and not (wanted.deleting and not members) and not balancer_matches:
        trouble = observed.balancer.trouble
        waits.append(MemberPlan(waiting=trouble or "the load balancer is changed", is_stuck=bool(trouble)))
    elif wanted.deleting and not members and wanted.spec.endpoints and _is_waited_for(observed, balancer_matches):
        # Its record goes last: whoever asks again after a crash finds what there is still to do.
        waits.append(MemberPlan(waiting="the load balancer is changed"))
    return [*steps, *_conclude(wanted, members, waits, stuck)]


def _is_under_way(
    steps: list[Step], members: list[Member], observed: Observed, busy: Mapping[str, EffectKind]
) -> bool:
    """Whether more is done than to try again what the hosts failed to do."""
    again = [step for step in steps if isinstance(step, Effect) and step.member.name in observed.troubled]
    return len(again) < len(steps) or any(member.name in busy for member in members)


def _is_waited_for(observed: Observed, balancer_matches: bool) -> bool:
    """Not if the load balancer cannot be changed: that must not keep a set from being forgotten."""
    return not balancer_matches and not observed.balancer.trouble


def _plan_members(
    wanted: ScaleSet, members: list[Member], context: Context, rollout: Rollout
) -> tuple[list[Step], list[MemberPlan]]:
    """Each by itself: steps, and what is waited for."""
    desired, observed, busy, now, _, goldens = context
    steps: list[Step] = []
    waits: list[MemberPlan] = []
    states = assign_states(wanted, pool_of(members))
    for member in members:
        sighting = sighting_of(member, desired.prefix, observed)
        if member.name in busy:
            steps += _interrupts(member, wanted, busy[member.name], sighting)
            continue
        park_in = states.get(member.name) or parked_state(member, wanted)
        has_host = member.host in observed.hosts
        outcome = plan_member(
            MemberView(
                member,
                wanted,
                sighting,
                observed.balancer,
                now,
                desired.limits,
                park_in,
                has_host,
                goldens.may_fork(member, wanted),
                rollout.state is RolloutState.STOPPED,
            )
        )
        steps += outcome.steps
        if outcome.until is not None and rollout.tries_again(member, wanted):
            outcome = replace(outcome, is_stuck=False)
        if outcome.waiting:
            waits.append(outcome)
    return steps, waits


def _member_of(step: Step) -> str:
    member = getattr(step, "member", None)
    return member.name if member is not None else ""


def _conclude(wanted: ScaleSet, members: list[Member], waits: list[MemberPlan], stuck: str) -> list[Step]:
    """Nothing is left to do: say whether the wish is met or what it waits for."""
    if any(not wait.is_stuck for wait in waits):
        return []
    if wanted.deleting and not members:
        return [ForgetSet(wanted.name, f"set {wanted.name} and all its machines are gone")]
    reasons = [reason for reason in (stuck, *(wait.waiting for wait in waits)) if reason]
    text = "; ".join(dict.fromkeys(reasons))
    if wanted.settled_generation == wanted.generation and wanted.stuck == text:
        return []
    reason = f"set {wanted.name} waits: {text}" if text else f"set {wanted.name} is as declared"
    return [Settle(wanted.name, wanted.generation, text, reason)]


def _interrupts(member: Member, wanted: ScaleSet, kind: EffectKind, sighting: MachineSighting) -> list[Step]:
    if sighting.power in HOPELESS.get(kind, frozenset()):
        words = f"machine of {member.name} is {sighting.power.value} while it was waited for"
        # Who is told while it starts is to run its on_claim. What was saved or is gone did not go off by itself.
        is_started = kind is EffectKind.AWAIT or (kind is EffectKind.TELL and member.phase is Phase.STARTING)
        return [Interrupt(member, words, is_started and sighting.power in (Power.STOPPED, Power.CRASHED))]
    unwanted = member.phase is Phase.DELETING or member.request in (
        Request.REIMAGE,
        Request.REDEPLOY,
        Request.REMOVE,
    )
    unwanted |= member.phase in UNFINISHED and member.model != wanted.model
    unwanted |= kind is EffectKind.AWAIT and member.request in (Request.RESTART, Request.STOP)
    # What a drain is for is no reason to cut its hook short.
    is_cut = kind is EffectKind.TELL and member.phase is not Phase.DRAINING
    if unwanted and (is_cut or kind in (EffectKind.PROVISION, EffectKind.AWAIT)):
        return [Interrupt(member, f"{member.name}: {member.reason}")]
    return []


def _resumptions(desired: Desired, observed: Observed, busy: Mapping[str, EffectKind]) -> list[Step]:
    """Room on a disk sends no event: it is tried at every look, but not of what is being switched off or saved."""
    ending = (EffectKind.SHUT_DOWN, EffectKind.HIBERNATE, EffectKind.DESTROY)
    staying = [member.name for member in desired.members if busy.get(member.name) not in ending]
    known = {domain_name(desired.prefix, name) for name in staying}
    return [
        Resume(host.name, seen.domain, f"machine {seen.domain} is paused: its disk could not be written; going on")
        for host in observed.hosts.values()
        for seen in host.machines.values()
        if seen.halted and seen.domain in known
    ]


def _balancer_matches(digest: str, needed: bool, observed: Observed) -> bool:
    if not needed:
        return not observed.balancer.running
    return observed.balancer.running and observed.balancer.digest == digest


def _balancer_reason(observed: Observed) -> str:
    if not observed.balancer.running:
        return "the load balancer is not running"
    return "the load balancer differs from what should be in rotation"


_EFFECT_URGENCY = {
    EffectKind.START: 1,
    EffectKind.AWAIT: 1,
    EffectKind.PROVISION: 2,
    EffectKind.FORK: 2,
    EffectKind.CREATE: 3,
    EffectKind.TELL: 5,
    EffectKind.SHUT_DOWN: 5,
    EffectKind.HIBERNATE: 5,
    EffectKind.DESTROY: 5,
    EffectKind.TAKE_GOLDEN: 5,
}
_BALANCER_URGENCY = 4
_RESERVE = 5


def _urgency(step: Step) -> int:
    """Records first, then what makes a claim wait, then what is begun for the set and goes on beside the balancer,
    then the balancer (before any machine goes), then the rest; the set before its reserve."""
    if isinstance(step, ConvergeBalancer):
        return _BALANCER_URGENCY
    if not isinstance(step, Effect):
        return 0
    reserve = _RESERVE if step.member.role is Role.STANDBY and step.kind is not EffectKind.DESTROY else 0
    if step.kind is EffectKind.TELL and step.member.phase is Phase.STARTING:
        return _EFFECT_URGENCY[EffectKind.AWAIT] + reserve
    return _EFFECT_URGENCY[step.kind] + reserve
