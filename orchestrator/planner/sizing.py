"""How many instances: scale-out from the pool, cold creation for the rest, scale-in by policy.

Rows B3 to B8. What becomes of the pool afterwards is in `refill`, the choice of zones in `spreading`; here are the
other choices.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Admit, Claim, Renew, Retire, Step
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.drives import held_back
from orchestrator.planner.leaving import choose_to_drop
from orchestrator.planner.parking import CLAIM_ORDER, is_parked, parked_state, pool_of
from orchestrator.planner.placement import Placement
from orchestrator.planner.refill import Refill
from orchestrator.planner.spreading import Spread, is_declared, is_stray, why_no_place, words_of

_ON_ITS_WAY = frozenset({Phase.CREATING, Phase.PROVISIONING, Phase.STARTING})
_SWAP_AFTER = 2


@dataclass(frozen=True)
class Turnover:
    """What a rollout asks of the sizes (see `rollout`).

    `spare` instances above the declared number are kept, `surge` more are made; `replaced` names those of an older
    model whose places new ones take. `leave` are the steps by which old ones leave.
    """

    is_on: bool = False
    spare: int = 0
    surge: int = 0
    replaced: tuple[str, ...] = ()
    leave: tuple[Retire | Renew, ...] = ()


NO_TURNOVER = Turnover()


@dataclass(frozen=True)
class Demands:
    """What others ask of the sizes. `repaired`: instances that a ready pool member is to take the place of, each
    with what is done without one; `sources`: members of whom a golden image is taken now, claimed last."""

    repaired: Sequence[tuple[Member, Step]] = ()
    turnover: Turnover = NO_TURNOVER
    sources: frozenset[str] = frozenset()


NO_DEMANDS = Demands()


@dataclass(frozen=True)
class Sizing:
    """Steps that change the number of instances; `stuck` says why it cannot be reached now. `refill`: what becomes
    of the pool when all sets have their instances; None: nothing this time."""

    steps: tuple[Step, ...]
    stuck: str = ""
    refill: Refill | None = None


def is_growing(wanted: ScaleSet, members: list[Member]) -> bool:
    """Whether instances are missing."""
    there = sum(member.role is Role.INSTANCE and not member.is_leaving for member in members)
    return there < wanted.wanted_instances


def plan_sizes(
    wanted: ScaleSet,
    members: list[Member],
    powers: Mapping[str, Power],
    busy: frozenset[str],
    placement: Placement,
    demands: Demands = NO_DEMANDS,
) -> Sizing:
    """Steps for the size of the set, and what its pool needs. Shrinking never waits for growing."""
    turnover, repaired = demands.turnover, demands.repaired
    instances = [member for member in members if member.role is Role.INSTANCE and not member.is_leaving]
    pool = pool_of(members)
    missing = wanted.wanted_instances - len(instances)
    too_many = -missing - turnover.spare
    if too_many > 0:
        leaving = {one.name: one for one in choose_to_drop(wanted, instances, too_many)}
        steps: list[Step] = [_retire(wanted, member) for member in leaving.values()]
        steps += [step for member, step in repaired if member.name not in leaving]
        staying = [one for one in instances if one.name not in leaving]
        return Sizing(tuple(steps), "", Refill.of(wanted, pool, staying, placement, wanted.standby_target))
    held = held_back(wanted, members, powers, missing, placement.drives)
    more = missing - held if missing > 0 else turnover.surge
    if more > 0:
        staying = [one for one in instances if one.name not in turnover.replaced]
        spread = Spread.of(wanted, staying, placement, placement.zones_without_drives(wanted.name))
        here = [one for one in pool if is_declared(placement.zone_of(one), wanted)]
        ready = _claimable(wanted, here, (powers, busy), demands.sources)
        growth = _Growth(wanted, pool, powers, placement, spread, ready)
        grown = _grow(growth, more, turnover.replaced)
        return replace(grown, steps=(*grown.steps, *(step for _, step in repaired)))
    # While a model is rolled out, what fails of it is the reason to stop: nobody takes its place. Ready members
    # that those who wait for drives will take are left to them.
    here = [one for one in pool if is_declared(placement.zone_of(one), wanted) and not turnover.is_on]
    ready = _claimable(wanted, here, (powers, busy), demands.sources)[held:]
    swaps = _swap_broken(wanted, instances, ready, repaired)
    if any(isinstance(step, Claim | Retire) for step in swaps):  # the pool is another one after it
        return Sizing(tuple(swaps))
    # What nobody can see is not being made: it holds up nothing.
    growing = any(member.phase in _ON_ITS_WAY and powers[member.name] is not Power.UNKNOWN for member in instances)
    growing |= held > 0 or bool(swaps)
    fill_to = wanted.standby_floor if growing else wanted.standby_target
    leave = () if held or swaps else turnover.leave  # one of them is away already
    return Sizing((*swaps, *leave), "", Refill.of(wanted, pool, instances, placement, fill_to))


def _swap_broken(
    wanted: ScaleSet,
    instances: list[Member],
    claimable: list[Member],
    repaired: Sequence[tuple[Member, Step]],
) -> list[Step]:
    """A ready member takes the place of an instance that is to be replaced, or could not be made: one of its zone
    first, then of any.

    A first failure may be chance, and is tried again. Failures go with the place: where the fault is in the
    services themselves, the pool is not used up faster than pauses pass, and in the end it is given up.
    """
    enough = 1 if wanted.spec.repair.action == "replace" else _SWAP_AFTER
    failed = [one for one in instances if one.phase is Phase.FAILED and enough <= one.failures < MAX_TRIES]
    pair = _pair_by_host if wanted.spec.drives else _pair_by_zone
    pairs = pair(claimable, [member for member, _ in repaired] + failed)
    steps: list[Step] = []
    troubles = {member.name: step.reason.partition(";")[0] for member, step in repaired}
    for member, gone in pairs:
        failures = gone.failures + (gone.phase is Phase.IN_SERVICE)
        if gone.drives:  # the claim follows once they are free
            steps.append(Retire(gone, "a member of the standby pool takes its place and its drives", failures))
            continue
        trouble = troubles.get(gone.name) or gone.reason.partition("\n")[0]
        words = f"claimed {member.name} in place of {gone.name}: {trouble}"
        steps.append(Claim(member, Phase.STARTING, words, failures))
        steps.append(Retire(gone, f"{member.name} of the standby pool takes its place"))
    replaced = {gone.name for _, gone in pairs}
    return steps + [step for member, step in repaired if member.name not in replaced]


def _pair_by_host(ready: list[Member], broken: list[Member]) -> list[tuple[Member, Member]]:
    """(member of the pool, instance whose place it takes): drives stay on their host."""
    left = _queues(ready, lambda one: one.host)
    return [(left[gone.host].popleft(), gone) for gone in broken if left[gone.host]]


def _pair_by_zone(ready: list[Member], broken: list[Member]) -> list[tuple[Member, Member]]:
    """(member of the pool, instance whose place it takes)."""
    left = _queues(ready, lambda one: one.zone)
    near = [(left[gone.zone].popleft(), gone) for gone in broken if left[gone.zone]]
    taken, paired = {member.name for member, _ in near}, {gone.name for _, gone in near}
    anywhere = (one for one in ready if one.name not in taken)
    return near + list(zip(anywhere, (one for one in broken if one.name not in paired), strict=False))


def _queues(members: Iterable[Member], place: Callable[[Member], str]) -> defaultdict[str, deque[Member]]:
    """Those of each place, in their order."""
    queues: defaultdict[str, deque[Member]] = defaultdict(deque)
    for member in members:
        queues[place(member)].append(member)
    return queues


def _claimable(
    wanted: ScaleSet,
    pool: list[Member],
    state: tuple[Mapping[str, Power], frozenset[str]],
    sources: frozenset[str],
) -> list[Member]:
    """What serves soonest first, of those the oldest. `pool`: its members in declared zones."""
    powers, busy = state
    ready = [member for member in pool if is_claimable(member, wanted, powers[member.name], busy)]
    speed = {member.name: CLAIM_ORDER.index(parked_state(member, wanted)) for member in ready}
    return sorted(ready, key=lambda one: (speed[one.name], one.name in sources, one.created_at, one.name))


def _grow(growth: _Growth, count: int, replaced: Sequence[str]) -> Sizing:
    """`replaced`: the instances of an older model whose places the first of the new ones take."""
    wanted, placement = growth.wanted, growth.placement
    steps: list[Step] = []
    for number in range(count):
        step = growth.next_step()
        if step is None:
            zones = growth.spread.zones
            placement.keep_room(wanted.name, wanted.spec.machine.memory, zones, count - number)
            return Sizing(tuple(steps), why_no_place(wanted, growth.spread, placement), growth.refill(0))
        why = f", replacing {replaced[number]} of an older model" if number < len(replaced) else ""
        steps.append(replace(step, reason=step.reason + why))
    return Sizing(tuple(steps), "", growth.refill(wanted.standby_floor))


@dataclass
class _Growth:
    """Instance by instance: the zone first, then its pool, then a machine made there. `claimed` are names."""

    wanted: ScaleSet
    pool: list[Member]
    powers: Mapping[str, Power]
    placement: Placement
    spread: Spread
    ready: list[Member]
    claimed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        zone_of = self.placement.zone_of
        self._rank = {member.name: rank for rank, member in enumerate(self.ready)}
        here = _queues(self.ready, zone_of)
        self._ready = {zone: _queues(here[zone], lambda one: one.host) for zone in self.spread.zones}
        self._pools = _queues(self.pool, zone_of)
        strays = [one for one in self.pool if is_stray(one, self.wanted, self.placement)]
        self._strays = Counter(map(zone_of, strays))
        self._claims: Counter[str] = Counter()  # by zone
        self._misses: dict[tuple[str, bool], str] = {}

    def next_step(self) -> Claim | Admit | None:
        """None where no zone has a ready member or room."""
        passed: list[str] = []
        for zone in self.spread.order():
            step = self._claim_in(zone, passed) or self._admit_in(zone, passed)
            if step is not None:
                self.spread.counts[zone] += 1
                return step
            passed.append(zone)
        return None

    def refill(self, fill_to: int) -> Refill:
        """Of what the claims have left of the pool."""
        left = [member for member in self.pool if member.name not in self.claimed]
        return Refill(left, Spread.of(self.wanted, (), self.placement, self.spread.counts), fill_to)

    def _claim_in(self, zone: str, passed: list[str]) -> Claim | None:
        """The first that would find its drives, else the first."""
        drives, queues = self.placement.drives, self._ready[zone]
        first = [queue[0] for queue in queues.values() if queue]
        member = min(first, key=lambda one: (not drives.finds(one), self._rank[one.name]), default=None)
        if member is None:
            return None
        drives.take(self.wanted.name, member.host)
        queues[member.host].popleft()
        self.claimed.add(member.name)
        self._claims[zone] += 1
        where = f"{self.wanted.name}{self.spread.place(zone)}"
        reason = f"claimed {member.name} from the standby pool of {where}"
        return Claim(member, Phase.STARTING, reason + words_of(passed, self.wanted, self.placement))

    def _admit_in(self, zone: str, passed: list[str]) -> Admit | None:
        wanted = self.wanted
        drives = self.placement.drives
        host = self.placement.take(wanted.name, wanted.spec.machine.memory, zone, drives.hosts(wanted.name))
        if host is None:
            return None
        drives.take(wanted.name, host.name)
        reason = f"creating an instance of {wanted.name}{self.spread.place(zone)} cold: {self._why_cold(zone)}"
        reason += words_of(passed, wanted, self.placement)
        return Admit(wanted.name, Role.INSTANCE, host.name, host.zone, reason, "claim_cold")

    def _why_cold(self, zone: str) -> str:
        """Why nobody of that zone's pool was claimed; whoever was claimed was ready, and adds nothing to that."""
        has_claimed = self._claims[zone] > 0
        if (zone, has_claimed) not in self._misses:
            place, claims = self.spread.place(zone), self._claims[zone]
            words = why_not_claimed(self.wanted, self._pools[zone], self.powers, claims, place, self._strays)
            self._misses[zone, has_claimed] = words
        return self._misses[zone, has_claimed]


def is_claimable(member: Member, wanted: ScaleSet, power: Power, busy: frozenset[str]) -> bool:
    """A parked member of which nothing is asked and on which no work is under way."""
    return member.request is None and member.name not in busy and is_parked(member, wanted, power)


def why_not_claimed(
    wanted: ScaleSet,
    pool: Iterable[Member],
    powers: Mapping[str, Power],
    claimed: int,
    place: str = "",
    strays: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """The reason of a pool miss, in words (row D3). `pool` and `claimed` are those of `place`, a zone or all;
    `strays` counts members in zones that are not declared any more."""
    if wanted.spec.standby is None:
        return "the set has no standby pool"
    rest = Counter(_why_passed_over(member, wanted, powers[member.name]) for member in pool)
    rest.update({f"in zone {zone}, which is not declared any more": count for zone, count in strays.items()})
    rest.pop("", None)
    if rest:
        return f"no ready member left in the standby pool{place}: " + ", ".join(
            f"{count} {why}" for why, count in sorted(rest.items())
        )
    return f"the standby pool is exhausted{place}" if claimed else f"the standby pool is empty{place}"


def _why_passed_over(member: Member, wanted: ScaleSet, power: Power) -> str:
    if member.phase is not Phase.STANDBY:
        return member.phase.value
    if power is Power.UNKNOWN:
        return "on a host that does not answer"
    if member.model != wanted.model:
        return "of an older model"
    if is_parked(member, wanted, power):
        return ""
    return f"{power.value} instead of {' or '.join(wanted.pool_shares)}"


def _retire(wanted: ScaleSet, member: Member) -> Retire:
    if wanted.deleting:
        return Retire(member, f"set {wanted.name} is being deleted")
    return Retire(member, f"{wanted.name} is scaled in to {wanted.spec.instances}")
