"""How many machines boot at once on a host that emulates its guests.

A guest that boots there takes a whole CPU of the host for each of its own. Begun all at once, all are late, and so
is the golden image of which the others are forks. So no more of them boot than the host has CPUs. Who only starts
(a claim, a restart) boots, too, but is held up by nobody; forks do not boot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from orchestrator.models.members import Member, Phase, PoolState, Role, ScaleSet
from orchestrator.models.sightings import HostSighting, Observed, Power
from orchestrator.models.steps import Effect, EffectKind, NoteWait, Step
from orchestrator.planner.world import Desired, sighting_of

LONGEST = 180.0
"""Seconds after which a guest that is set up, or started, holds up nobody: it hangs, or waits for something."""

Waiting = tuple[Member, str]  # who is not begun yet, and why


class Rank(IntEnum):
    """Who gets a CPU first. Each waits for those that boot of its own rank and of those before it."""

    INSTANCE = 0
    FLOOR = 1  # of a pool that would else be below `min_ready`
    REFILL = 2


# Of a pool, who counts toward `min_ready` first: what is nearest to being ready. What failed is tried again later.
_PROGRESS = {
    phase: number
    for number, phase in enumerate(
        (Phase.STANDBY, Phase.PARKING, Phase.READY, Phase.STARTING, Phase.PROVISIONING, Phase.CREATING)
    )
}


@dataclass
class Boots:
    """Machines that boot during one plan. `busy`: work under way. After `hold`, `waiting` tells who is held up,
    and `wakes` when that may be over though nothing happens."""

    desired: Desired
    observed: Observed
    busy: Mapping[str, EffectKind]
    now: float
    waiting: list[Waiting] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def hold(self, steps: Sequence[Step]) -> list[Step]:
        """The same steps, most urgent first, without creations for which their host has no CPU.

        One boots in any case. Instances wait only for instances, the floor of a pool for these and for floors, its
        other refills for all: they never hold anybody up. Whoever is held up is not overtaken but by who comes
        before it in rank.
        """
        if not any(self._is_boot(step) for step in steps):
            return list(steps)
        ledger = _Ledger({one.name: one.spec.machine.vcpus for one in self.desired.sets})
        for member in self._booting():
            ledger.book(member, self._rank(member))
        kept: list[Step] = []
        for step in steps:
            if isinstance(step, Effect) and self._is_boot(step) and not self._is_begun(step.member):
                member, host = step.member, self.observed.hosts[step.member.host]
                rank = self._rank(member)
                if not ledger.has_place(member, rank, host.cpus):
                    self.waiting.append((member, _why_held(host)))
                    continue
                ledger.book(member, rank)
            kept.append(step)
        if not self.waiting:
            self.wakes.clear()
        return kept

    def is_floor(self, step: Step) -> bool:
        """Whether it is about a member without whom its pool would be below `min_ready`."""
        return isinstance(step, Effect) and step.member.name in self._floors

    @cached_property
    def _floors(self) -> frozenset[str]:
        sets = {wanted.name: wanted for wanted in self.desired.sets if wanted.standby_floor}
        pools: dict[str, list[Member]] = {name: [] for name in sets}
        for member in self.desired.members:
            if member.set_name in sets and _counts_for_floor(member, sets[member.set_name]):
                pools[member.set_name].append(member)
        floors = (sorted(pool, key=self._nearness)[: sets[name].standby_floor] for name, pool in pools.items())
        return frozenset(member.name for floor in floors for member in floor)

    def _nearness(self, member: Member) -> tuple[int, bool, float, str]:
        return (_PROGRESS[member.phase], not self._is_begun(member), member.created_at, member.name)

    def _rank(self, member: Member) -> Rank:
        if member.role is Role.INSTANCE:
            return Rank.INSTANCE
        return Rank.FLOOR if member.name in self._floors else Rank.REFILL

    def _is_boot(self, step: Step) -> bool:
        if not isinstance(step, Effect) or step.kind is not EffectKind.CREATE:
            return False
        host = self.observed.hosts.get(step.member.host)
        return host is not None and host.emulates is not False

    def _booting(self) -> Iterator[Member]:
        """All that boot now, or are about to be started."""
        for member in self.desired.members:
            if member.phase is Phase.CREATING:
                if self._is_begun(member):
                    yield member
            elif self._sets_up(member) or _starts(member):
                until = member.phase_since + LONGEST
                if self.now < until:
                    self.wakes.append(until)
                    yield member

    def _is_begun(self, member: Member) -> bool:
        """It is created now, or runs although no record says so yet."""
        if self.busy.get(member.name) is EffectKind.CREATE:
            return True
        seen = sighting_of(member, self.desired.prefix, self.observed)
        return seen.power is Power.RUNNING and not seen.forked

    def _sets_up(self, member: Member) -> bool:
        return member.phase is Phase.PROVISIONING and self._is_begun(member)


@dataclass
class _Ledger:
    """CPUs that guests which boot take, by host and rank. `vcpus`: of a guest of each set."""

    vcpus: Mapping[str, int]
    taken: defaultdict[tuple[str, Rank], int] = field(default_factory=lambda: defaultdict(int))
    full: set[tuple[str, Rank]] = field(default_factory=set)

    def book(self, member: Member, rank: Rank) -> None:
        self.taken[member.host, rank] += self._size(member)

    def has_place(self, member: Member, rank: Rank, cpus: int) -> bool:
        before = [other for other in Rank if other <= rank]
        taken = sum(self.taken[member.host, other] for other in before)
        is_held = any((member.host, other) in self.full for other in before)
        if not is_held and (taken == 0 or taken + self._size(member) <= cpus):
            return True
        self.full.add((member.host, rank))
        return False

    def _size(self, member: Member) -> int:
        return self.vcpus.get(member.set_name, 1)


def plan_waits(waiting: Iterable[Waiting]) -> list[NoteWait]:
    """What to record of those who are not begun yet and of whom that is not recorded."""
    untold: defaultdict[tuple[str, str], list[Member]] = defaultdict(list)
    for member, why in waiting:
        if member.reason != why:
            untold[member.set_name, why].append(member)
    return [
        NoteWait(name, tuple(members), why, f"not begun yet, {_counted(members)} of {name}: {why}")
        for (name, why), members in untold.items()
    ]


def _counts_for_floor(member: Member, wanted: ScaleSet) -> bool:
    in_pool = member.role is Role.STANDBY and not member.is_leaving
    return in_pool and member.model == wanted.model and member.phase in _PROGRESS


def _starts(member: Member) -> bool:
    """With a boot: of those who were hibernated the memory is there."""
    if member.phase is not Phase.STARTING:
        return False
    return member.parked is PoolState.STOPPED or (member.parked is None and member.entered)


def _why_held(host: HostSighting) -> str:
    why = "it emulates its guests" if host.emulates else "nobody knows yet whether it emulates its guests"
    return f"waits for a CPU of host {host.name}: {why}, and has {host.cpus} for those that boot"


def _counted(members: Sequence[Member]) -> str:
    return "1 machine" if len(members) == 1 else f"{len(members)} machines"
