"""Which host takes the next machine. Committed memory never exceeds what the host has."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.models.members import Member
from orchestrator.models.sightings import HostSighting, Observed
from orchestrator.planner.drives import FreeDrives
from orchestrator.planner.world import Desired


@dataclass
class Placement:
    """A ledger of committed memory (bytes) and member counts, updated as places are taken during one plan.

    Instances come first, then refills: after `begin_refills` nothing is given of what is kept for instances that
    found no room.
    """

    hosts: dict[str, HostSighting]
    memory_ratio: float
    free_addresses: float = math.inf
    committed: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)  # (set, host) -> members
    drives: FreeDrives = field(default_factory=FreeDrives)
    kept: dict[str, int] = field(default_factory=dict)  # by host, for instances that wait
    kept_for: set[str] = field(default_factory=set)  # their sets
    is_refilling: bool = False

    @classmethod
    def of(cls, desired: Desired, observed: Observed) -> Placement:
        free = math.inf if desired.addresses is None else desired.addresses - len(desired.members)
        ledger = cls(dict(observed.hosts), desired.limits.memory_ratio, free)
        ledger.drives = FreeDrives.of(desired, observed)
        declared = {wanted.name: wanted.spec.machine.memory for wanted in desired.sets}
        for member in desired.members:
            # Until it gets a new machine it has what it was made with; what vanishes is made as declared now.
            memory = max(member.memory, declared.get(member.set_name, 0))
            ledger._book(member.set_name, member.host, memory)
        return ledger

    def zone_of(self, member: Member) -> str:
        """As recorded when it was made; where no host has that zone any more, its host's."""
        host = self.hosts.get(member.host)
        return member.zone if host is None or member.zone in self._zones else host.zone

    @cached_property
    def _zones(self) -> frozenset[str]:
        return frozenset(host.zone for host in self.hosts.values())

    def zones_without_drives(self, set_name: str) -> dict[str, int]:
        """Ranks zones: the less, the more instances of the set would find their drives there."""
        ranks: dict[str, int] = {}
        for host in self.hosts.values():
            ranks[host.zone] = ranks.get(host.zone, 0) - self.drives.of_set(set_name)[host.name]
        return ranks

    def take(self, set_name: str, memory: int, zone: str, prefer: Collection[str] = ()) -> HostSighting | None:
        """A preferred host of the zone, then the one with the fewest members of the set, then the most room; None
        where nothing fits."""
        fitting = [host for host in self._hosts(zone) if host.answers and self._room(host) >= memory]
        if not fitting or self.free_addresses <= 0:
            return None
        self.free_addresses -= 1
        best = min(
            fitting,
            key=lambda host: (
                host.name not in prefer,
                self._count(set_name, host),
                -self._room(host),
                host.name,
            ),
        )
        self._book(set_name, best.name, memory)
        return best

    def keep_room(self, set_name: str, memory: int, zones: Collection[str], count: int) -> None:
        """For `count` instances that found no place in these zones: what comes free where there is most room is
        theirs. A host that could never hold one keeps nothing."""
        able = [
            host
            for host in self.hosts.values()
            if host.answers and host.zone in zones and self._capacity(host) >= memory
        ]
        for host in sorted(able, key=lambda host: (-self._left(host), host.name))[:count]:
            if self._left(host) > 0:
                self.kept[host.name] = self.kept.get(host.name, 0) + memory
                self.kept_for.add(set_name)

    def begin_refills(self) -> None:
        """All instances that there is room for have their places."""
        self.is_refilling = True

    def has_room(self, memory: int, zones: tuple[str, ...] | None = None) -> bool:
        """Whether a refill would find a host in one of these zones (None: in any); takes nothing."""
        fitting = [host for host in self.hosts.values() if host.answers and self._left(host) >= memory]
        return self.free_addresses > 0 and any(not zones or host.zone in zones for host in fitting)

    def why_full(self, memory: int, zone: str = "") -> str:
        """One sentence on why there is no host, in that zone or at all."""
        hosts = self._hosts(zone)
        if zone and not hosts:
            return "no host of it is configured"
        answering = [host for host in hosts if host.answers]
        if not answering:
            return "; ".join(["no host answers", *(host.reason for host in hosts if host.reason)])
        if self.free_addresses <= 0:
            return "every address of the range is taken (widen network.range in config.toml)"
        room = f"largest room: {max(max(map(self._room, answering)) // 2**20, 0)} MiB"
        if self.is_refilling and any(host.name in self.kept for host in answering):
            room += f", beside what is kept for instances of {', '.join(sorted(self.kept_for))} that wait"
        return f"no host has {memory // 2**20} MiB of memory to give ({room})"

    def _hosts(self, zone: str) -> list[HostSighting]:
        return [host for host in self.hosts.values() if not zone or host.zone == zone]

    def _room(self, host: HostSighting) -> int:
        """What may be given now."""
        return self._left(host) if self.is_refilling else self._free(host)

    def _left(self, host: HostSighting) -> int:
        return self._free(host) - self.kept.get(host.name, 0)

    def _free(self, host: HostSighting) -> int:
        return self._capacity(host) - self.committed.get(host.name, 0)

    def _capacity(self, host: HostSighting) -> int:
        return int(host.memory_total * self.memory_ratio)

    def _count(self, set_name: str, host: HostSighting) -> int:
        return self.counts.get((set_name, host.name), 0)

    def _book(self, set_name: str, host: str, memory: int) -> None:
        self.committed[host] = self.committed.get(host, 0) + memory
        self.counts[set_name, host] = self.counts.get((set_name, host), 0) + 1
