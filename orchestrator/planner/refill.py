"""How large the pool is: what it loses and what it is filled with, once every set has its instances (rows B6, B7).

The arithmetic is in `ScaleSet.standby_target`, the choice of zones in `spreading`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.models.members import Member, Role, ScaleSet
from orchestrator.models.steps import Admit, Retire, Step
from orchestrator.planner.leaving import choose_spare
from orchestrator.planner.placement import Placement
from orchestrator.planner.spreading import Spread, find_place, is_stray, why_no_place


@dataclass(frozen=True)
class Refill:
    """Members of a pool, the zones that new ones are spread over, and to how many it is filled, which is not above
    its target."""

    members: list[Member]
    spread: Spread
    fill_to: int

    @classmethod
    def of(
        cls, wanted: ScaleSet, pool: list[Member], instances: list[Member], placement: Placement, fill_to: int
    ) -> Refill:
        """Between zones whose pools are equally large, the next instance's zone comes first."""
        ties = Spread.of(wanted, instances, placement).counts
        return cls(pool, Spread.of(wanted, (), placement, ties), fill_to)


def plan_refill(wanted: ScaleSet, refill: Refill, placement: Placement) -> tuple[list[Step], str]:
    """Renew what cannot be claimed any more, shrink to the target, grow as far as is asked; and why that is not
    possible now."""
    useless = {one.name: _why_useless(one, wanted, placement) for one in refill.members}
    steps: list[Step] = [Retire(one, useless[one.name]) for one in refill.members if useless[one.name]]
    current = [one for one in refill.members if not useless[one.name]]
    target, spread = wanted.standby_target, refill.spread
    for member in choose_spare(wanted, current, len(current) - target, placement):
        steps.append(Retire(member, f"the standby pool of {wanted.name} holds {target}"))
    spread.counts.update(map(placement.zone_of, current))
    for _ in range(refill.fill_to - len(current)):
        place = find_place(wanted, spread, placement)
        if place is None:
            return steps, why_no_place(wanted, spread, placement)
        host = place.host
        where = f"to {refill.fill_to}{spread.place(host.zone)}{place.passed_over}"
        reason = f"filling the standby pool of {wanted.name} {where}"
        steps.append(Admit(wanted.name, Role.STANDBY, host.name, host.zone, reason))
    return steps, ""


def _why_useless(member: Member, wanted: ScaleSet, placement: Placement) -> str:
    """Why nobody could claim it, ever; empty if it may be claimed one day."""
    if member.model != wanted.model:
        return "its model is not the current one"
    if is_stray(member, wanted, placement):
        return f"its zone {placement.zone_of(member)} is not declared any more"
    return ""
