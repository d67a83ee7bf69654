"""Whether a wish fits into the memory of the hosts it may use, as far as that is certain."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.models.sightings import HostSighting
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.store.store import Snapshot


@dataclass(frozen=True)
class Room:
    """The hosts, and how much of their memory may be committed."""

    hosts: tuple[HostSighting, ...]
    memory_ratio: float

    @property
    def zones(self) -> frozenset[str]:
        return frozenset(host.zone for host in self.hosts)

    def of_hosts(self, zones: frozenset[str]) -> list[int]:
        """Bytes of each host of these zones that answers."""
        return [
            int(host.memory_total * self.memory_ratio)
            for host in self.hosts
            if host.answers and host.zone in zones
        ]


def check_room(known: Snapshot, spec: ScaleSetSpec, room: Room) -> None:
    """Raises SpecError if it cannot fit. Hosts that do not answer are not judged, nor is what shrinks."""
    current = next((one.spec for one in known.sets if one.name == spec.name), None)
    own = _zones(spec, room)
    rooms = room.of_hosts(own)
    if not rooms or (current is not None and _needed_memory(spec) <= _needed_memory(current)):
        return
    if spec.machine.memory > max(rooms):
        raise SpecError(
            f"set {spec.name!r}: machine.memory {spec.machine.memory // 2**20} MiB is more than any host"
            f"{_of_zones(own, room)} has ({max(rooms) // 2**20} MiB)",
            "ask for less, or add a host to config.toml",
        )
    # Its own zones have to hold all that is confined to them, and all hosts have to hold everything.
    for zones in dict.fromkeys((own, room.zones)):
        _check_zones_hold(known, spec, zones, room)


def _check_zones_hold(known: Snapshot, spec: ScaleSetSpec, zones: frozenset[str], room: Room) -> None:
    confined = [one.spec for one in known.sets if one.name != spec.name and _zones(one.spec, room) <= zones]
    booked = sum(_needed_memory(one) - _memory_elsewhere(known, one, zones) for one in confined)
    left, needed = sum(room.of_hosts(zones)) - booked, _needed_memory(spec)
    if needed - _memory_elsewhere(known, spec, zones) > left:
        raise SpecError(
            f"set {spec.name!r}: {spec.instances} instances and {_pool_size(spec)} in reserve need "
            f"{needed // 2**20} MiB of memory, the hosts{_of_zones(zones, room)} have "
            f"{max(left, 0) // 2**20} MiB left",
            "ask for fewer or smaller machines, add a host, or raise limits.memory_ratio in config.toml",
        )


def _zones(spec: ScaleSetSpec, room: Room) -> frozenset[str]:
    return frozenset(spec.zones) if spec.zones is not None else room.zones


def _of_zones(zones: frozenset[str], room: Room) -> str:
    return "" if zones == room.zones else f" of zones {', '.join(sorted(zones))}"


def _memory_elsewhere(known: Snapshot, spec: ScaleSetSpec, zones: frozenset[str]) -> int:
    """Of members that stay in zones that were declared once."""
    strays = sum(one.set_name == spec.name and one.zone not in zones for one in known.members)
    return min(strays * spec.machine.memory, _needed_memory(spec))


def _needed_memory(spec: ScaleSetSpec) -> int:
    return (spec.instances + _pool_size(spec)) * spec.machine.memory


def _pool_size(spec: ScaleSetSpec) -> int:
    return max(spec.standby.min_ready, spec.standby.max_ready - spec.instances) if spec.standby else 0
