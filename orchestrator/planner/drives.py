"""Which drive an instance gets, and for which it waits. `docs/drives.md` draws their life.

A drive is free only when its holder's machine is gone. So that a replacement finds the data of what it replaces,
growth waits for drives that are about to become free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.models.members import Member, Role, ScaleSet
from orchestrator.models.sightings import Observed, Power
from orchestrator.models.storage import Drive, DriveSpec
from orchestrator.planner.world import Desired


@dataclass(frozen=True)
class Holder:
    """An instance of a set, and the host its machine is on."""

    member: str
    set_name: str
    host: str


def drives_for(
    known: Sequence[Drive], wanted: Sequence[DriveSpec], holder: Holder, now: float
) -> list[tuple[Drive, str]]:
    """Drives of the set that change, new ones among them, and why, until the instance has one of every name.

    Of each name: the one it has, else the free one of its host with the lowest slot, else a new one. What it holds
    on another host than its own becomes free there.
    """
    changes = [
        (replace(one, member=None), f"drive {one.title} stays on {one.host} without {holder.member}")
        for one in known
        if one.member == holder.member and one.host != holder.host
    ]
    for spec in wanted:
        named = [one for one in known if one.name == spec.name]
        if any((one.member, one.host) == (holder.member, holder.host) for one in named):
            continue
        free = [one for one in named if is_free(one) and one.host == holder.host]
        if free:
            taken = min(free, key=lambda one: one.slot)
            changes.append((replace(taken, member=holder.member), f"{holder.member} takes drive {taken.title}"))
            continue
        slots = {one.slot for one in named}
        slot = next(number for number in range(len(slots) + 1) if number not in slots)
        made = Drive(holder.set_name, spec.name, slot, holder.host, spec.size, holder.member, now)
        changes.append((made, f"{holder.member} takes drive {made.title}, a new one"))
    return changes


def is_free(drive: Drive) -> bool:
    return drive.member is None and not drive.is_deleting


@dataclass
class FreeDrives:
    """How many instances of a set would find all their drives on a host, counted down during one plan."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)  # set -> host -> how many

    @classmethod
    def of(cls, desired: Desired, observed: Observed) -> FreeDrives:
        """Of hosts that answer only: what is on another cannot be taken now."""
        free = Counter((one.set_name, one.host, one.name) for one in desired.drives if is_free(one))
        answering = [host.name for host in observed.hosts.values() if host.answers]
        counts = {}
        for wanted in desired.sets:
            names = [spec.name for spec in wanted.spec.drives]
            if names:
                each = {host: min(free[wanted.name, host, name] for name in names) for host in answering}
                counts[wanted.name] = Counter(each)
        return cls(counts)

    def of_set(self, set_name: str) -> Counter[str]:
        """By host."""
        return self.counts.get(set_name, Counter())

    def hosts(self, set_name: str) -> set[str]:
        return {host for host, count in self.of_set(set_name).items() if count > 0}

    def total(self, set_name: str) -> int:
        return self.of_set(set_name).total()

    def take(self, set_name: str, host: str) -> bool:
        """False if an instance there would get a new drive."""
        found = self.of_set(set_name)[host] > 0
        if found:
            self.counts[set_name][host] -= 1
        return found

    def finds(self, member: Member) -> bool:
        """Whether the member would find its drives, if it were an instance now."""
        return self.of_set(member.set_name)[member.host] > 0


def held_back(
    wanted: ScaleSet, members: Iterable[Member], powers: Mapping[str, Power], missing: int, free: FreeDrives
) -> int:
    """How many of the missing instances wait until members that leave have given their drives back.

    What leaves on a host that does not answer is not waited for.
    """
    if missing <= 0 or not wanted.spec.drives:
        return 0
    leaving = sum(
        member.role is Role.INSTANCE
        and member.is_leaving
        and bool(member.drives)
        and powers[member.name] is not Power.UNKNOWN
        for member in members
    )
    return min(leaving, max(missing - free.total(wanted.name), 0))
