"""How many: scale-out from the pool, cold creation for the rest, scale-in by policy, the pool's own size.

Rows B3 to B7. The arithmetic is in `ScaleSet.standby_target`; here are the choices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Admit, Claim, Retire, Step
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.parking import CLAIM_ORDER, is_parked, parked_state, pool_of
from orchestrator.planner.placement import Placement

# From the least to the most useful member of each role: what is dropped first when there are too many.
_USEFULNESS = (
    Phase.FAILED,
    Phase.STOPPED,
    Phase.CREATING,
    Phase.PROVISIONING,
    Phase.STARTING,
    Phase.READY,
    Phase.PARKING,
    Phase.STANDBY,
    Phase.DRAINING,
    Phase.IN_SERVICE,
)
_ON_ITS_WAY = frozenset({Phase.CREATING, Phase.PROVISIONING, Phase.STARTING})
_SWAP_AFTER = 2


@dataclass(frozen=True)
class Sizing:
    """Steps that change counts; `stuck` says why a count cannot be reached now."""

    steps: tuple[Step, ...]
    stuck: str = ""


def plan_sizes(
    wanted: ScaleSet,
    members: list[Member],
    powers: Mapping[str, Power],
    busy: frozenset[str],
    placement: Placement,
    repaired: list[tuple[Member, Step]],
) -> Sizing:
    """Steps for the size of the set and of its pool. Shrinking never waits for growing.

    `repaired`: instances that a ready pool member is to take the place of, each with what is done without one.
    """
    instances = [member for member in members if member.role is Role.INSTANCE and not member.is_leaving]
    pool = pool_of(members)
    missing = wanted.wanted_instances - len(instances)
    if missing < 0:
        gone = _superfluous(wanted, instances, -missing)
        steps: list[Step] = [_retire(wanted, member) for member in gone]
        steps += [step for member, step in repaired if member not in gone]
        refill, stuck = _plan_pool(wanted, pool, placement, wanted.standby_target)
        return Sizing((*steps, *refill), stuck)
    if missing > 0:
        grown = _grow(wanted, pool, missing, (powers, busy), placement)
        return Sizing((*grown.steps, *(step for _, step in repaired)), grown.stuck)
    swaps = _swap_broken(wanted, instances, _claimable(wanted, pool, (powers, busy)), repaired)
    if swaps:
        return Sizing(tuple(swaps))
    # What nobody can see is not being made: it holds up nothing.
    growing = any(member.phase in _ON_ITS_WAY and powers[member.name] is not Power.UNKNOWN for member in instances)
    fill_to = wanted.standby_floor if growing else wanted.standby_target
    steps, stuck = _plan_pool(wanted, pool, placement, fill_to)
    return Sizing(tuple(steps), stuck)


def _swap_broken(
    wanted: ScaleSet,
    instances: list[Member],
    claimable: list[Member],
    repaired: list[tuple[Member, Step]],
) -> list[Step]:
    """A ready member takes the place of an instance that is to be replaced, or could not be made.

    A first failure may be chance, and is tried again. Failures go with the place: where the fault is in the
    services themselves, the pool is not used up faster than pauses pass, and in the end it is given up.
    """
    enough = 1 if wanted.spec.repair.action == "replace" else _SWAP_AFTER
    failed = [one for one in instances if one.phase is Phase.FAILED and enough <= one.failures < MAX_TRIES]
    broken = [member for member, _ in repaired] + failed
    steps: list[Step] = []
    for member, gone in zip(claimable, broken, strict=False):
        words = f"claimed {member.name} in place of {gone.name}: {gone.reason.partition(chr(10))[0]}"
        failures = gone.failures + (gone.phase is Phase.IN_SERVICE)
        steps.append(Claim(member, Phase.STARTING, words, failures))
        steps.append(Retire(gone, f"{member.name} of the standby pool takes its place"))
    return steps + [step for _, step in repaired[len(claimable) :]]


def _claimable(
    wanted: ScaleSet, pool: list[Member], state: tuple[Mapping[str, Power], frozenset[str]]
) -> list[Member]:
    """What serves soonest first, of those the oldest."""
    powers, busy = state
    ready = [member for member in pool if is_claimable(member, wanted, powers[member.name], busy)]
    speed = {member.name: CLAIM_ORDER.index(parked_state(member, wanted)) for member in ready}
    return sorted(ready, key=lambda member: (speed[member.name], member.created_at, member.name))


def _grow(
    wanted: ScaleSet,
    pool: list[Member],
    missing: int,
    state: tuple[Mapping[str, Power], frozenset[str]],
    placement: Placement,
) -> Sizing:
    powers, _ = state
    claimed = _claimable(wanted, pool, state)[:missing]
    steps: list[Step] = [
        Claim(member, Phase.STARTING, f"claimed {member.name} from the standby pool of {wanted.name}")
        for member in claimed
    ]
    left = [member for member in pool if member not in claimed]
    why_cold = why_not_claimed(wanted, left, powers, len(claimed))
    for _ in range(missing - len(claimed)):
        host = placement.take(wanted.name, wanted.spec.machine.memory)
        if host is None:
            shrink, _ = _plan_pool(wanted, left, placement, 0)
            return Sizing((*steps, *shrink), placement.why_full(wanted.spec.machine.memory))
        reason = f"creating an instance of {wanted.name} cold: {why_cold}"
        steps.append(Admit(wanted.name, Role.INSTANCE, host.name, host.zone, reason, "claim_cold"))
    refill, stuck = _plan_pool(wanted, left, placement, wanted.standby_floor)
    return Sizing((*steps, *refill), stuck)


def is_claimable(member: Member, wanted: ScaleSet, power: Power, busy: frozenset[str]) -> bool:
    """A parked member of which nothing is asked and on which no work is under way."""
    return member.request is None and member.name not in busy and is_parked(member, wanted, power)


def why_not_claimed(wanted: ScaleSet, pool: list[Member], powers: Mapping[str, Power], claimed: int) -> str:
    """The reason of a pool miss, in words (row D3)."""
    if wanted.spec.standby is None:
        return "the set has no standby pool"
    rest = Counter(_why_passed_over(member, wanted, powers[member.name]) for member in pool)
    rest.pop("", None)
    if rest:
        return "no ready member left in the standby pool: " + ", ".join(
            f"{count} {why}" for why, count in sorted(rest.items())
        )
    return "the standby pool is exhausted" if claimed else "the standby pool is empty"


def _why_passed_over(member: Member, wanted: ScaleSet, power: Power) -> str:
    if member.phase is not Phase.STANDBY:
        return member.phase.value
    if power is Power.UNKNOWN:
        return "on a host that does not answer"
    if member.model != wanted.model:
        return "of an older model"
    if is_parked(member, wanted, power):
        return ""
    return f"{power.value} instead of {' or '.join(wanted.pool_shares)}"


def _plan_pool(wanted: ScaleSet, pool: list[Member], placement: Placement, fill_to: int) -> tuple[list[Step], str]:
    """Renew what is of an older model, shrink to the target, grow to `fill_to` (which is not above the target)."""
    stale = [member for member in pool if member.model != wanted.model]
    steps: list[Step] = [Retire(member, "its model is not the current one") for member in stale]
    current = [member for member in pool if member.model == wanted.model]
    target = wanted.standby_target
    for member in _least_useful(current, "newest")[: max(len(current) - target, 0)]:
        steps.append(Retire(member, f"the standby pool of {wanted.name} holds {target}"))
    for _ in range(fill_to - len(current)):
        host = placement.take(wanted.name, wanted.spec.machine.memory)
        if host is None:
            return steps, placement.why_full(wanted.spec.machine.memory)
        reason = f"filling the standby pool of {wanted.name} to {fill_to}"
        steps.append(Admit(wanted.name, Role.STANDBY, host.name, host.zone, reason))
    return steps, ""


def _retire(wanted: ScaleSet, member: Member) -> Retire:
    if wanted.deleting:
        return Retire(member, f"set {wanted.name} is being deleted")
    return Retire(member, f"{wanted.name} is scaled in to {wanted.spec.instances}")


def _superfluous(wanted: ScaleSet, instances: list[Member], count: int) -> list[Member]:
    """Whom scale-in takes: what is not in service first, then by policy; balanced evens out the zones."""
    policy = wanted.spec.scale_in.policy
    ranked = _least_useful(instances, "oldest" if policy == "oldest" else "newest")
    if policy != "balanced":
        return ranked[:count]
    chosen: list[Member] = []
    zones = Counter(member.zone for member in instances)
    for _ in range(count):
        serving = [member for member in ranked if member not in chosen]
        idle = [member for member in serving if member.phase is not Phase.IN_SERVICE]
        largest = max(zones[member.zone] for member in serving)
        victim = next(iter(idle), None) or next(m for m in serving if zones[m.zone] == largest)
        chosen.append(victim)
        zones[victim.zone] -= 1
    return chosen


def _least_useful(members: list[Member], first: str) -> list[Member]:
    sign = 1 if first == "oldest" else -1
    return sorted(
        members, key=lambda member: (_USEFULNESS.index(member.phase), sign * member.created_at, member.name)
    )
