"""Large worlds as plain values: what a plan has to cope with, at rest and in the middle of something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.models.members import Member, Phase, PoolCondition, PoolLevel, PoolState, Role, ScaleSet
from orchestrator.models.sightings import BalancerSighting, Observed, Power
from orchestrator.models.steps import EffectKind
from orchestrator.models.storage import Drive
from orchestrator.planner import Desired
from orchestrator.planner.balancer import desired_balancer
from tests.builders import (
    GIB,
    NOW,
    PREFIX,
    make_member,
    make_set,
    make_spec,
    see_host,
    see_machine,
    see_server,
)

ZONES = {"h1": "a", "h2": "a", "h3": "b", "h4": "c"}
OLD_MODEL = "0" * 16
_SET_SIZE = 20  # members of each set where there are many sets
_OTHERS_DIGEST = "of another configuration"


@dataclass(frozen=True)
class LargeWorld:
    """The planner's input."""

    desired: Desired
    observed: Observed
    busy: Mapping[str, EffectKind] = field(default_factory=dict)


@dataclass
class Population:
    """Sets and members while a world is made. Members are dealt to the hosts in turn, each seen in its power."""

    sets: list[ScaleSet] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    powers: dict[str, Power] = field(default_factory=dict)

    def declare(self, name: str, **fields: Any) -> ScaleSet:
        number = len(self.sets)
        address = f"127.0.{number // 250}.{number % 250 + 1}"
        endpoint = {"name": "http", "address": address, "listen": 8080, "port": 80}
        made = make_set(make_spec(name=name, endpoints=[endpoint], **fields), settled_generation=1)
        pool = PoolCondition(PoolLevel.FULL) if made.standby_target else PoolCondition()
        self.sets.append(replace(made, pool=pool))
        return self.sets[-1]

    def add(self, wanted: ScaleSet, count: int, power: Power = Power.RUNNING, **fields: Any) -> list[Member]:
        return [self._add(wanted, power, fields) for _ in range(count)]

    def _add(self, wanted: ScaleSet, power: Power, fields: Mapping[str, Any]) -> Member:
        number = len(self.members)
        host = list(ZONES)[number % len(ZONES)]
        address = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        place = {"host": host, "zone": ZONES[host], "address": address}
        member = make_member(wanted, f"{number:05}", **{**place, **fields})
        if wanted.spec.drives and member.role is Role.INSTANCE:
            member = replace(member, drives=_drives_of(wanted, host, number, member.name))
        self.members.append(member)
        self.powers[member.name] = power
        return member

    def pool(self, wanted: ScaleSet, count: int, state: PoolState = PoolState.STOPPED, **fields: Any) -> None:
        standing_by = {"role": Role.STANDBY, "phase": Phase.STANDBY, "parked": state}
        self.add(wanted, count, Power(state.value), **{**standing_by, **fields})

    def world(
        self, busy: Mapping[str, EffectKind] | None = None, drives: tuple[Drive, ...] = (), rotates: bool = True
    ) -> LargeWorld:
        """As a controller would see it. `rotates`: the load balancer is as the records say."""
        members = tuple(sorted(self.members, key=lambda one: one.name))
        held = tuple(drive for one in members for drive in one.drives)
        desired = Desired(tuple(self.sets), members, PREFIX, drives=held + drives)
        machines: dict[str, list[Any]] = {host: [] for host in ZONES}
        for member in members:
            if self.powers[member.name] is not Power.ABSENT:
                machines[member.host].append(see_machine(member, self.powers[member.name]))
        models = frozenset(one.model for one in self.sets)
        hosts = {
            name: see_host(*machines[name], name=name, zone=zone, memory_total=4096 * GIB, goldens=models)
            for name, zone in ZONES.items()
        }
        config = desired_balancer(desired, Observed(hosts, BalancerSighting(running=True)))
        servers = {
            (front.name, server.member): see_server(server.state)
            for front in config.frontends
            for server in front.servers
        }
        digest = config.digest() if rotates else _OTHERS_DIGEST
        return LargeWorld(desired, Observed(hosts, BalancerSighting(True, digest, servers)), busy or {})


def _drives_of(wanted: ScaleSet, host: str, slot: int, member: str | None = None) -> tuple[Drive, ...]:
    return tuple(
        Drive(wanted.name, one.name, slot, host, one.size, member, NOW, is_made=True) for one in wanted.spec.drives
    )


# ---- worlds of that many machines, recorded or about to be --------------------------------------------------


def one_set_at_rest(count: int) -> LargeWorld:
    """Nine in ten in service, the rest a stopped pool."""
    made, reserve = Population(), count // 10
    pool = {"state": "stopped", "max_ready": count, "min_ready": 0}
    web = made.declare("web", instances=count - reserve, standby=pool)
    made.add(web, count - reserve)
    made.pool(web, reserve)
    return made.world()


def many_sets_at_rest(count: int) -> LargeWorld:
    """Sets of twenty: twelve instances with a drive each, and a pool of eight, half of it running."""
    made = Population()
    for number in range(count // _SET_SIZE):
        mix = {"state": {"running": "50%", "stopped": "50%"}, "max_ready": _SET_SIZE}
        drive = {"name": "data", "size": "16MiB", "mount": "/data"}
        one = made.declare(f"s{number}", instances=12, standby=mix, drives=[drive])
        made.add(one, 12)
        made.pool(one, 4, PoolState.RUNNING)
        made.pool(one, 4, PoolState.STOPPED)
    return made.world()


def growing(count: int) -> LargeWorld:
    """Half is in service, a quarter is the pool that is claimed, a quarter is made from nothing."""
    made, quarter = Population(), count // 4
    web = made.declare("web", instances=count, standby={"max_ready": quarter, "state": "stopped"})
    made.add(web, count - 2 * quarter)
    made.pool(web, quarter)
    return made.world()


def being_made(count: int) -> LargeWorld:
    """Every other machine is on its way, a few with work on them; the rest serves already."""
    made = Population()
    web = made.declare("web", instances=count)
    made.add(web, count - count // 2)
    made.add(web, count // 4, Power.ABSENT, phase=Phase.CREATING)
    made.add(web, count // 2 - count // 4, phase=Phase.PROVISIONING)
    busy = {one.name: EffectKind.PROVISION for one in made.members[-8:]}
    return made.world(busy, rotates=False)


def growing_with_drives(count: int) -> LargeWorld:
    """The same as `growing`; for half of the new instances drives are there."""
    made, quarter = Population(), count // 4
    drive = {"name": "data", "size": "16MiB", "mount": "/data"}
    web = made.declare("web", instances=count, standby={"max_ready": quarter}, drives=[drive])
    made.add(web, count - 2 * quarter)
    made.pool(web, quarter)
    hosts = list(ZONES)
    free = [one for number in range(quarter) for one in _drives_of(web, hosts[number % 4], count + number)]
    return made.world(drives=tuple(free))


def shrinking(count: int) -> LargeWorld:
    """Half of the instances are to leave, evenly over the zones, and half of the pool."""
    made, reserve = Population(), count // 4
    web = made.declare("web", instances=(count - reserve) // 2, standby={"max_ready": count // 2})
    made.add(web, count - reserve)
    made.pool(web, reserve)
    return made.world()


def rolling_out(count: int) -> LargeWorld:
    """All instances are of an older model, a tenth may be away at a time."""
    made = Population()
    web = made.declare("web", instances=count, update={"max_surge": 0, "max_unavailable": "10%"})
    made.add(web, count, model=OLD_MODEL)
    return made.world()


def replacing_failed(count: int) -> LargeWorld:
    """Half of the set could not be made; members of the pool take its place."""
    made, quarter = Population(), count // 4
    pool = {"max_ready": count, "min_ready": quarter}
    web = made.declare("web", instances=count - quarter, standby=pool, repair={"action": "replace"})
    made.add(web, count - 2 * quarter - quarter)
    made.add(web, quarter, Power.ABSENT, phase=Phase.FAILED, failures=3)
    made.pool(web, quarter)
    made.pool(web, count - len(made.members), PoolState.STOPPED)
    return made.world()


def leaving(count: int) -> LargeWorld:
    """The set is deleted: its machines drain."""
    made = Population()
    web = made.declare("web", instances=count)
    made.sets[0] = replace(web, deleting=True, generation=2)
    made.add(web, count, phase=Phase.DRAINING)
    return made.world()


WORLDS: dict[str, Callable[[int], LargeWorld]] = {
    "one set at rest": one_set_at_rest,
    "many sets at rest": many_sets_at_rest,
    "growing": growing,
    "machines being made": being_made,
    "growing with drives": growing_with_drives,
    "shrinking": shrinking,
    "rolling out": rolling_out,
    "replacing what failed": replacing_failed,
    "leaving": leaving,
}
AT_REST = ("one set at rest", "many sets at rest")
