"""What a claim waits for, planned with the sighting on which it was claimed: its machine was seen a moment ago.
The same for a machine that was started since."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from orchestrator.models.members import Member, Phase
from orchestrator.models.sightings import Observed, Power
from orchestrator.models.steps import Effect, EffectKind
from orchestrator.planner.member import MemberView, plan_member
from orchestrator.planner.parking import parked_state
from orchestrator.planner.world import Desired, sighting_of


def plan_claimed(
    desired: Desired, observed: Observed, busy: Mapping[str, EffectKind], now: float, claimed: Set[str]
) -> list[Effect]:
    """The effects that are next for these members, with the records that the claims have made of them.

    They are those of the next plan, as far as nothing else has changed.
    """
    sets = {wanted.name: wanted for wanted in desired.sets}
    effects: list[Effect] = []
    for member in desired.members:
        if member.name not in claimed or member.name in busy or member.phase is not Phase.STARTING:
            continue
        wanted, sighting = sets[member.set_name], sighting_of(member, desired.prefix, observed)
        park_in, has_host = parked_state(member, wanted), member.host in observed.hosts
        view = MemberView(member, wanted, sighting, observed.balancer, now, desired.limits, park_in, has_host)
        effects += [step for step in plan_member(view).steps if isinstance(step, Effect)]
    return effects


def see_running(member: Member, prefix: str, observed: Observed) -> Observed:
    """As if its machine had been seen running, where it was seen at all: it was started since."""
    sighting = sighting_of(member, prefix, observed)
    if sighting.power in (Power.UNKNOWN, Power.ABSENT):
        return observed
    host = observed.hosts[member.host]
    machines = {**host.machines, sighting.domain: replace(sighting, power=Power.RUNNING)}
    return replace(observed, hosts={**observed.hosts, member.host: replace(host, machines=machines)})
