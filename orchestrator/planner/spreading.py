"""In which zone the next machine goes: as even as possible over the zones of the set (row B8).

Instances and pool members are counted apart. A zone that cannot take a machine is passed over for the next best
one, and the reason says so. Growth takes from the pool of the very zone it grows in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.models.members import Member, ScaleSet
from orchestrator.models.sightings import HostSighting
from orchestrator.planner.placement import Placement


@dataclass
class Spread:
    """Zones of a set in the declared order, and how many are in each, updated as places are given in one plan.

    Between zones with equally many, the one with fewer in `ties` comes first. `is_named`: there is more than one
    zone to speak of.
    """

    zones: tuple[str, ...]
    is_named: bool
    counts: Counter[str]
    ties: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        wanted: ScaleSet,
        members: Iterable[Member],
        placement: Placement,
        ties: Mapping[str, int] | None = None,
    ) -> Spread:
        zones = zones_of(wanted, placement.hosts.values())
        is_named = len(zones) > 1 or wanted.spec.zones is not None
        return cls(zones, is_named, Counter(map(placement.zone_of, members)), ties or {})

    def order(self) -> list[str]:
        """The emptiest zone first; of equal ones the first declared."""
        return sorted(self.zones, key=lambda zone: (self.counts[zone], self.ties.get(zone, 0)))

    def place(self, zone: str) -> str:
        """The words for a place in that zone, with a leading blank."""
        return f" in zone {zone}" if self.is_named else ""


@dataclass(frozen=True)
class Place:
    """A host for a new machine, and which zones were passed over for it, in words with a leading semicolon."""

    host: HostSighting
    passed_over: str


def zones_of(wanted: ScaleSet, hosts: Iterable[HostSighting]) -> tuple[str, ...]:
    """As declared; by default those of all configured hosts, silent ones too, by name."""
    return wanted.spec.zones or tuple(sorted({host.zone for host in hosts}))


def even_shares(zones: tuple[str, ...], total: int, present: Mapping[str, int]) -> dict[str, int]:
    """`total` over the zones, none more than one ahead of another; what is left over stays where the most are."""
    if not zones:
        return {}
    each, left_over = divmod(total, len(zones))
    more = sorted(zones, key=lambda zone: -present.get(zone, 0))[:left_over]
    return {zone: each + (zone in more) for zone in zones}


def is_in_zones(member: Member, wanted: ScaleSet) -> bool:
    """False for a member of a zone that is not declared any more."""
    return is_declared(member.zone, wanted)


def is_declared(zone: str, wanted: ScaleSet) -> bool:
    """Without any, all zones are."""
    return not wanted.spec.zones or zone in wanted.spec.zones


def is_stray(member: Member, wanted: ScaleSet, placement: Placement) -> bool:
    """In a zone that is not declared any more, on a host that answers: of any other nothing is known."""
    host = placement.hosts.get(member.host)
    return host is not None and host.answers and not is_declared(placement.zone_of(member), wanted)


def find_place(wanted: ScaleSet, spread: Spread, placement: Placement) -> Place | None:
    """A place in the emptiest zone that has one, booked; None where no zone has."""
    memory = wanted.spec.machine.memory
    passed: list[str] = []
    for zone in spread.order():
        host = placement.take(wanted.name, memory, zone)
        if host is not None:
            spread.counts[zone] += 1
            return Place(host, words_of(passed, wanted, placement))
        passed.append(zone)
    return None


def words_of(passed: list[str], wanted: ScaleSet, placement: Placement) -> str:
    """Why these zones were passed over."""
    memory = wanted.spec.machine.memory
    return "".join(f"; zone {zone} is passed over: {placement.why_full(memory, zone)}" for zone in passed)


def why_no_place(wanted: ScaleSet, spread: Spread, placement: Placement) -> str:
    """Why `find_place` found none, zone by zone."""
    memory = wanted.spec.machine.memory
    if not spread.is_named or placement.free_addresses <= 0:
        return placement.why_full(memory)
    return "; ".join(f"zone {zone}: {placement.why_full(memory, zone)}" for zone in spread.zones)
