"""The planner's input: the wish as the store holds it, and how one member is found in a sighting."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.models.golden import GoldenTroubles
from orchestrator.models.members import Member, Phase, ScaleSet
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import MachineSighting, Observed, Power
from orchestrator.models.storage import Drive


@dataclass(frozen=True)
class Limits:
    """Installation-wide bounds. Pauses are seconds; `memory_ratio` is committed : physical memory of a host.

    `repair_patience`: how long services are silent, at least, before an instance is repaired; those of a guest
    that restarts by itself are silent, too.
    """

    retry_pause: float = 30.0
    retry_pause_max: float = 600.0
    repair_patience: float = 15.0
    memory_ratio: float = 1.0


@dataclass(frozen=True)
class Desired:
    """What the store holds. `prefix` begins every domain name of this installation."""

    sets: tuple[ScaleSet, ...]
    members: tuple[Member, ...]
    prefix: str = "understudy"
    limits: Limits = Limits()
    addresses: int | None = None  # how many members may have one; None: no bound
    drives: tuple[Drive, ...] = ()
    departed: frozenset[str] = frozenset()  # members that were let go, as far as machines of such names are there
    hold: str = ""  # why nothing may be done
    golden_troubles: GoldenTroubles = field(default_factory=dict)


def sighting_of(member: Member, prefix: str, observed: Observed) -> MachineSighting:
    """The member's machine as seen. A body of another incarnation counts as absent: it is not this machine."""
    domain = domain_name(prefix, member.name)
    host = observed.hosts.get(member.host)
    if host is None or not host.answers:
        return MachineSighting(domain, member.name, member.incarnation, Power.UNKNOWN)
    seen = host.machines.get(domain)
    if seen is None:
        return MachineSighting(domain, member.name, member.incarnation, Power.ABSENT)
    if seen.incarnation != member.incarnation and member.phase not in (Phase.FAILED, Phase.DELETING):
        return MachineSighting(domain, member.name, member.incarnation, Power.ABSENT)
    return seen
