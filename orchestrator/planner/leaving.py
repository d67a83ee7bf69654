"""Who leaves a set or a pool that is too large, and who stays: one pass, however many leave."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from orchestrator.models.members import Member, Phase, ScaleSet
from orchestrator.planner.placement import Placement
from orchestrator.planner.spreading import is_in_zones

# From the least to the most useful member of each role: what is dropped first when there are too many.
_USEFULNESS = (
    Phase.FAILED,
    Phase.STOPPED,
    Phase.CREATING,
    Phase.PROVISIONING,
    Phase.STARTING,
    Phase.READY,
    Phase.PARKING,
    Phase.STANDBY,
    Phase.DRAINING,
    Phase.IN_SERVICE,
)
_RANK = {phase: rank for rank, phase in enumerate(_USEFULNESS)}


def choose_to_drop(wanted: ScaleSet, instances: list[Member], count: int) -> list[Member]:
    """Whom scale-in takes: what is in zones not declared any more, then what is not in service, then what is of an
    older model, then by policy; balanced evens out the zones."""
    policy = wanted.spec.scale_in.policy
    ranked = _least_useful(instances, "oldest" if policy == "oldest" else "newest")
    ranked.sort(key=lambda one: 1 + (one.model == wanted.model) if one.phase is Phase.IN_SERVICE else 0)
    ranked.sort(key=lambda one: is_in_zones(one, wanted))
    strays = sum(not is_in_zones(one, wanted) for one in ranked)
    if policy != "balanced" or count <= strays:
        return ranked[:count]
    left = ranked[strays:]
    idle = [one for one in left if one.phase is not Phase.IN_SERVICE]
    serving = left[len(idle) :]
    older = [one for one in serving if one.model != wanted.model]
    zones = Counter(one.zone for one in serving)
    parts = (_evenly(part, zones, lambda one: one.zone) for part in (older, serving[len(older) :]))
    return ranked[:strays] + list(islice(chain(idle, *parts), count - strays))


def choose_spare(wanted: ScaleSet, pool: list[Member], count: int, placement: Placement) -> list[Member]:
    """Whom a pool that is too large loses: what is in zones not declared any more, then the least useful of the
    zones with the most."""
    ranked = _least_useful(pool, "newest")
    strays = [one for one in ranked if not is_in_zones(one, wanted)]
    staying = [one for one in ranked if is_in_zones(one, wanted)]
    zones = Counter(map(placement.zone_of, staying))
    return list(islice(chain(strays, _evenly(staying, zones, placement.zone_of)), max(count, 0)))


def _least_useful(members: Iterable[Member], first: str) -> list[Member]:
    sign = 1 if first == "oldest" else -1
    return sorted(members, key=lambda member: (_RANK[member.phase], sign * member.created_at, member.name))


def _evenly(ranked: Sequence[Member], zones: Counter[str], zone_of: Callable[[Member], str]) -> Iterator[Member]:
    """The first of those in the zones with the most, again and again; `zones` counts down."""
    queues: dict[str, deque[tuple[int, Member]]] = {}
    for rank, member in enumerate(ranked):
        queues.setdefault(zone_of(member), deque()).append((rank, member))
    while queues:
        zone = min(queues, key=lambda one: (-zones[one], queues[one][0][0]))
        _, member = queues[zone].popleft()
        zones[zone] -= 1
        if not queues[zone]:
            del queues[zone]
        yield member
