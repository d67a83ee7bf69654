"""The plan of one look at the world: members first, then sizes, then the load balancer.

Pure: the same wish, sighting, work under way and moment give the same steps. A converged world gives none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.lifecycle.table import HOPELESS, UNFINISHED
from orchestrator.models.members import Member, Phase, Request, Role, ScaleSet
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import MachineSighting, Observed
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
    Retire,
    Settle,
    Step,
)
from orchestrator.planner.balancer import desired_balancer
from orchestrator.planner.member import MemberPlan, MemberView, plan_member
from orchestrator.planner.parking import assign_states, parked_state, pool_of
from orchestrator.planner.placement import Placement
from orchestrator.planner.pool_condition import note_pool
from orchestrator.planner.repair import Moment, plan_repairs
from orchestrator.planner.rollout import Rollout, note_rollout, plan_rollout, replaces_in_place, view_set
from orchestrator.planner.sizing import Demands, is_growing, plan_sizes
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
    (host, domain) pairs that looked like leaks the last time.
    """
    by_set: dict[str, list[Member]] = {wanted.name: [] for wanted in desired.sets}
    for member in desired.members:
        by_set.setdefault(member.set_name, []).append(member)
    placement = Placement.of(desired, observed)
    config = desired_balancer(desired, observed)
    matches = _balancer_matches(config.digest(), bool(config.frontends), observed)
    steps: list[Step] = [] if matches else [ConvergeBalancer(config, _balancer_reason(observed))]
    wakes: list[float] = []
    # Between sets too, what waits for a machine comes before a refill: memory is given in this order.
    for wanted in sorted(desired.sets, key=lambda one: not is_growing(one, by_set[one.name])):
        members = by_set[wanted.name]
        set_steps, set_wakes = _plan_set(wanted, members, (desired, observed, busy, now, matches), placement)
        steps += set_steps
        wakes += set_wakes
    leaks = _leaks(desired, observed)
    steps += [
        RemoveLeak(host, domain, f"no record names machine {domain} on {host}, seen twice")
        for host, domain in sorted(leaks & suspects)
    ]
    if leaks - suspects:
        wakes.append(now + LEAK_LOOK)
    ordered = tuple(sorted(steps, key=_urgency))
    return Plan(ordered, min(wakes, default=None), leaks - suspects)


Context = tuple[Desired, Observed, Mapping[str, EffectKind], float, bool]
"""Wish, sighting, work under way, moment, and whether the load balancer is as it should be."""


def _plan_set(
    wanted: ScaleSet, members: list[Member], context: Context, placement: Placement
) -> tuple[list[Step], list[float]]:
    desired, observed, busy, now, balancer_matches = context
    has_room = placement.has_room(wanted.spec.machine.memory, wanted.spec.zones)
    view = view_set(wanted, members, (desired.prefix, observed), has_room, now)
    rollout = plan_rollout(view, replaces_in_place(wanted))
    steps, waits = _plan_members(wanted, members, context, rollout)
    moment = Moment(view.powers, frozenset(busy), observed, now, desired.limits)
    repairs = plan_repairs(wanted, members, moment)
    steps += repairs.steps
    waits += [MemberPlan(waiting=words, is_stuck=True) for words in repairs.waiting]
    waits = rollout.add_waiting(waits)
    wakes = [wait.until for wait in waits if wait.until is not None] + repairs.wakes
    demands = Demands(repairs.replaced, rollout.turnover)
    sizing = plan_sizes(wanted, members, view.powers, frozenset(busy), placement, demands)
    sized = {step.member.name for step in sizing.steps if isinstance(step, Claim | Retire | Renew)}
    steps = [step for step in steps if isinstance(step, Interrupt) or _member_of(step) not in sized]
    steps += sizing.steps
    told, pool_told = note_rollout(view, rollout), note_pool(wanted, members, view.powers)
    steps = [*([told] if told else []), *steps, *([pool_told] if pool_told else [])]
    if steps or any(member.name in busy for member in members):
        return steps, wakes
    if wanted.spec.endpoints and not (wanted.deleting and not members) and not balancer_matches:
        trouble = observed.balancer.trouble
        waits.append(MemberPlan(waiting=trouble or "the load balancer is changed", is_stuck=bool(trouble)))
    elif wanted.deleting and not members and wanted.spec.endpoints and _is_waited_for(observed, balancer_matches):
        # Its record goes last: whoever asks again after a crash finds what there is still to do.
        waits.append(MemberPlan(waiting="the load balancer is changed"))
    return _conclude(wanted, members, waits, sizing.stuck), wakes


def _is_waited_for(observed: Observed, balancer_matches: bool) -> bool:
    """Not if the load balancer cannot be changed: that must not keep a set from being forgotten."""
    return not balancer_matches and not observed.balancer.trouble


def _plan_members(
    wanted: ScaleSet, members: list[Member], context: Context, rollout: Rollout
) -> tuple[list[Step], list[MemberPlan]]:
    """Each by itself: steps, and what is waited for."""
    desired, observed, busy, now, _ = context
    steps: list[Step] = []
    waits: list[MemberPlan] = []
    states = assign_states(wanted, pool_of(members))
    for member in members:
        sighting = sighting_of(member, desired.prefix, observed)
        if member.name in busy:
            steps += _interrupts(member, wanted, busy[member.name], sighting)
            continue
        park_in = states.get(member.name) or parked_state(member, wanted)
        outcome = plan_member(
            MemberView(member, wanted, sighting, observed.balancer, now, desired.limits, park_in)
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
        return [Interrupt(member, f"machine of {member.name} is {sighting.power.value} while it was waited for")]
    unwanted = member.phase is Phase.DELETING or member.request in (
        Request.REIMAGE,
        Request.REDEPLOY,
        Request.REMOVE,
    )
    unwanted |= member.phase in UNFINISHED and member.model != wanted.model
    # What a drain is for is no reason to cut its hook short.
    is_cut = kind is EffectKind.TELL and member.phase is not Phase.DRAINING
    if unwanted and (is_cut or kind in (EffectKind.PROVISION, EffectKind.AWAIT)):
        return [Interrupt(member, f"{member.name}: {member.reason}")]
    return []


def _leaks(desired: Desired, observed: Observed) -> Suspects:
    known = {domain_name(desired.prefix, member.name) for member in desired.members}
    return frozenset(
        (host.name, domain)
        for host in observed.hosts.values()
        if host.answers
        for domain in host.machines
        if domain not in known
    )


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
    EffectKind.TELL: 3,
    EffectKind.SHUT_DOWN: 3,
    EffectKind.HIBERNATE: 3,
    EffectKind.DESTROY: 3,
    EffectKind.PROVISION: 4,
    EffectKind.CREATE: 5,
}
_BALANCER_URGENCY = 2


def _urgency(step: Step) -> int:
    """Records first, then what makes a claim wait, then the balancer (before any machine goes), then the rest;
    the set before its reserve."""
    if isinstance(step, ConvergeBalancer):
        return _BALANCER_URGENCY
    if not isinstance(step, Effect):
        return 0
    reserve = 5 if step.member.role is Role.STANDBY and step.kind is not EffectKind.DESTROY else 0
    if step.kind is EffectKind.TELL and step.member.phase is Phase.STARTING:
        return _EFFECT_URGENCY[EffectKind.AWAIT] + reserve
    return _EFFECT_URGENCY[step.kind] + reserve
