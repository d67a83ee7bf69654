"""Which member of a pool is kept in which state: shares of a mix, met by moving as few members as possible."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.models.members import Member, Phase, PoolState, Role, ScaleSet
from orchestrator.models.sightings import Power

PARKED_POWER: dict[PoolState, Power] = {
    PoolState.RUNNING: Power.RUNNING,
    PoolState.HIBERNATED: Power.HIBERNATED,
    PoolState.STOPPED: Power.STOPPED,
}
# What is claimed first where there is a choice: what serves soonest.
CLAIM_ORDER = tuple(PARKED_POWER)


def pool_of(members: Iterable[Member]) -> list[Member]:
    """Those in reserve that count toward its size."""
    return [member for member in members if member.role is Role.STANDBY and not member.is_leaving]


def parked_state(member: Member, wanted: ScaleSet) -> PoolState:
    """The state a member is, or is being, parked in."""
    return member.parked or wanted.pool_state


def is_parked(member: Member, wanted: ScaleSet, power: Power) -> bool:
    """Ready to be handed out: of the current model, seen in the power state it is parked in, which the pool still
    declares (row B5)."""
    state = parked_state(member, wanted)
    return (
        member.phase is Phase.STANDBY
        and member.model == wanted.model
        and state in wanted.pool_shares
        and power is PARKED_POWER[state]
    )


def quotas(shares: dict[PoolState, int], size: int) -> dict[PoolState, int]:
    """Percentages -> whole members that add up to `size` (largest remainder; of equal ones the faster state)."""
    exact = {state: shares[state] * size for state in CLAIM_ORDER if state in shares}
    counts = {state: hundredths // 100 for state, hundredths in exact.items()}
    by_remainder = sorted(exact, key=lambda state: (-(exact[state] % 100), CLAIM_ORDER.index(state)))
    for state in by_remainder[: size - sum(counts.values())]:
        counts[state] += 1
    return counts


def assign_states(wanted: ScaleSet, pool: list[Member]) -> dict[str, PoolState]:
    """Member of the current model -> the state it should be parked in. Whoever is parked already stays while its
    state has room."""
    current = [member for member in pool if member.model == wanted.model]
    left = quotas(wanted.pool_shares, max(wanted.standby_target, len(current)))
    assigned: dict[str, PoolState] = {}
    settled = sorted(current, key=lambda one: (one.phase is not Phase.STANDBY, one.created_at, one.name))
    for member in settled:
        if member.parked is not None and left.get(member.parked, 0) > 0:
            assigned[member.name] = member.parked
            left[member.parked] -= 1
    for member in settled:
        if member.name not in assigned:
            state = next((state for state in left if left[state] > 0), wanted.pool_state)
            assigned[member.name] = state
            left[state] -= 1
    return assigned
