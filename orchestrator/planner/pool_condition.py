"""What an operator should be told about a pool: full, exhausted, degraded, recovered (row B13).

The condition that was told last is recorded with the set; a plan tells only what changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.models.members import Member, Phase, PoolCondition, PoolLevel, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.models.steps import NotePool
from orchestrator.planner.parking import is_parked, pool_of


def note_pool(wanted: ScaleSet, members: list[Member], powers: Mapping[str, Power]) -> NotePool | None:
    """The change since the last note; None if there is none, or if a silent host hides part of the pool."""
    pool = pool_of(members)
    if wanted.deleting or any(powers[member.name] is Power.UNKNOWN for member in pool):
        return None
    failed = next((member for member in pool if member.phase is Phase.FAILED), None)
    # What is tried again has not recovered before it is there.
    is_degraded = failed is not None or (wanted.pool.is_degraded and any(member.failures for member in pool))
    now = PoolCondition(_level(wanted, pool, powers), is_degraded)
    if now == wanted.pool:
        return None
    title = f"the standby pool of {wanted.name}"
    events = []
    if now.level is not wanted.pool.level:
        if now.level is PoolLevel.FULL:
            events.append(("pool_full", f"{title} is full: {wanted.standby_target} ready"))
        if now.level is PoolLevel.EXHAUSTED:
            events.append(("pool_exhausted", f"{title} is exhausted: no ready member is left"))
    if failed is not None and not wanted.pool.is_degraded:
        first_line = failed.reason.partition("\n")[0]
        events.append(("pool_degraded", f"{title} is degraded: {failed.name} failed: {first_line}"))
    if not is_degraded and wanted.pool.is_degraded:
        events.append(("pool_recovered", f"{title} has recovered: what had failed is there or gone"))
    reason = "; ".join(words for _, words in events) or f"{title} is {now.level.value}"
    return NotePool(wanted.name, now, tuple(events), reason)


def _level(wanted: ScaleSet, pool: list[Member], powers: Mapping[str, Power]) -> PoolLevel:
    if wanted.spec.standby is None:
        return PoolLevel.NEVER
    ready = sum(is_parked(member, wanted, powers[member.name]) for member in pool)
    if ready:
        return PoolLevel.FULL if ready >= wanted.standby_target else PoolLevel.FILLING
    # A pool that has not been filled yet is not exhausted.
    return PoolLevel.NEVER if wanted.pool.level is PoolLevel.NEVER else PoolLevel.EXHAUSTED
