"""Worlds for property tests: any mix of what a store and its hosts can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from orchestrator.models.members import (
    GuestPhase,
    Member,
    Phase,
    PoolState,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.naming import backend_name, domain_name
from orchestrator.models.sightings import (
    BalancerSighting,
    HostSighting,
    MachineSighting,
    Power,
    Rotation,
    ServerSighting,
)
from orchestrator.models.storage import Drive
from tests.builders import GIB, NOW, PREFIX, make_member, make_set, make_spec, see_host, see_machine
from tests.unit.world import World

DRIVES: tuple[Any, ...] = (
    [],
    [{"name": "data", "size": "16MiB", "mount": "/data"}],
    [{"name": "data", "size": "16MiB", "mount": "/data"}, {"name": "logs", "size": "16MiB", "mount": "/logs"}],
)
OLD_MODEL = "0" * 16
SEEN = (Power.RUNNING, Power.STOPPED, Power.HIBERNATED, Power.CRASHED, Power.ABSENT)
POOL_STATES: tuple[Any, ...] = (
    "running",
    "stopped",
    "hibernated",
    {"running": "20%", "stopped": "80%"},
    {"running": "34%", "hibernated": "33%", "stopped": "33%"},
)
UPDATES: tuple[dict[str, Any], ...] = (
    {},
    {"max_surge": 2},
    {"max_surge": 0, "max_unavailable": 1},
    {"max_surge": 1, "max_unavailable": 2},
    {"max_surge": "50%", "max_unavailable": "25%"},
    {"max_surge": 0, "max_unavailable": "34%"},
)

# Phases in which an instance has been in service, and in which it may have been, or come from the pool just now.
SERVES = (Phase.IN_SERVICE, Phase.DRAINING, Phase.STOPPED)
ENTERS = (Phase.STARTING, Phase.READY)
# Which phases a member of each role can be in: a claim ends a member's time in the pool, and nothing goes back.
PHASES = {
    Role.INSTANCE: tuple(phase for phase in Phase if phase not in (Phase.PARKING, Phase.STANDBY)),
    Role.STANDBY: tuple(
        phase for phase in Phase if phase not in (Phase.IN_SERVICE, Phase.STOPPED, Phase.DRAINING)
    ),
}

# Who does not answer may be noted as such: in service, or held out of rotation.
MAY_BE_ILL: dict[Role, tuple[Phase, ...]] = {Role.INSTANCE: (Phase.IN_SERVICE, Phase.STARTING), Role.STANDBY: ()}

HOOKS: tuple[dict[str, Any], ...] = (
    {},
    {"on_claim": ["come"]},
    {"on_drain": ["go"]},
    {"on_claim": ["come"], "on_drain": ["go"]},
)


@st.composite
def sets(draw: st.DrawFn, name: str = "web", deleting: bool | None = None, room: int = 5) -> ScaleSet:
    """A declared set: any size, with or without a pool, perhaps on its way out."""
    pool: dict[str, Any] | None = None
    if draw(st.booleans()):
        most = draw(st.integers(0, room + 1))
        pool = {
            "state": draw(st.sampled_from(POOL_STATES)),
            "max_ready": most,
            "min_ready": draw(st.integers(0, min(most, 3))),
        }
    base = 8000 + 10 * ord(name[0])
    endpoints = [
        {"name": f"e{number}", "listen": base + number, "port": 80 + number}
        for number in range(draw(st.integers(0, 2)))
    ]
    answer_file = draw(st.sampled_from(["cloud-init", "cloud-init", "cloud-init", "none"]))
    spec = make_spec(
        name=name,
        machine={"memory": draw(st.sampled_from(["128MiB", "128MiB", "320MiB"]))},
        instances=draw(st.integers(0, room)),
        endpoints=endpoints,
        standby=pool,
        scale_in={"policy": draw(st.sampled_from(["balanced", "newest", "oldest"]))},
        repair={"action": draw(st.sampled_from(["restart", "reimage", "replace"])), "grace": "8s"},
        update=draw(st.sampled_from(UPDATES)),
        setup={"answer_file": answer_file},
        hooks=draw(st.sampled_from(HOOKS)) if answer_file == "cloud-init" else {},
        drives=draw(st.sampled_from(DRIVES)) if answer_file == "cloud-init" else [],
    )
    made = make_set(
        spec,
        generation=3,
        settled_generation=draw(st.sampled_from([2, 3])),
        deleting=draw(st.sampled_from([False, False, False, True])) if deleting is None else deleting,
        stuck=draw(st.sampled_from(["", "no host answers"])),
    )
    told = draw(st.sampled_from(RolloutLevel))
    model = draw(st.sampled_from([made.model, OLD_MODEL]))
    return replace(made, rollout=RolloutCondition(told, "" if told is RolloutLevel.NONE else model))


@st.composite
def members(draw: st.DrawFn, wanted: ScaleSet, number: int, hosts: tuple[HostSighting, ...]) -> Member:
    role = draw(st.sampled_from(Role))
    phase = draw(st.sampled_from(PHASES[role]))
    host = draw(st.sampled_from(hosts))
    was_parked = role is Role.STANDBY or phase in ENTERS
    model = draw(st.sampled_from([wanted.model, wanted.model, OLD_MODEL]))
    declared = wanted.spec.machine.memory
    parked = draw(st.sampled_from([None, *PoolState])) if was_parked else None
    return make_member(
        wanted,
        f"{number:05}",
        role=role,
        phase=phase,
        host=host.name,
        zone=host.zone,
        incarnation=draw(st.integers(1, 3)),
        model=model,
        memory=declared if model == wanted.model else draw(st.sampled_from([declared, 2 * declared])),
        request=draw(st.sampled_from(requests_of(role, phase))),
        failures=draw(st.integers(0, 2)) if phase is not Phase.FAILED else draw(st.integers(1, 2)),
        unhealthy_since=draw(st.sampled_from([None, NOW - 5.0])) if phase in MAY_BE_ILL[role] else None,
        created_at=NOW - draw(st.integers(0, 5)) * 100.0,
        phase_since=NOW - draw(st.sampled_from([0.0, 10.0, 1000.0])),
        parked=parked,
        told=draw(st.sampled_from(told_in(wanted, role, phase, parked))),
        entered=role is Role.INSTANCE and (phase in SERVES or (phase in ENTERS and draw(st.booleans()))),
        served=role is Role.INSTANCE and (phase in SERVES or draw(st.booleans())),
    )


def told_in(wanted: ScaleSet, role: Role, phase: Phase, parked: PoolState | None) -> list[GuestPhase | None]:
    """What the guest of a member can have been told since it booted."""
    if wanted.spec.setup.answer_file != "cloud-init":
        return [None]
    if role is Role.STANDBY:
        is_up = phase in (Phase.READY, Phase.PARKING) or (phase is Phase.STANDBY and parked is PoolState.RUNNING)
        return [None, GuestPhase.STANDBY] if is_up else [None]
    if phase is Phase.DRAINING:
        return [None, GuestPhase.IN_SERVICE, GuestPhase.DRAINING]
    return [None, GuestPhase.IN_SERVICE] if phase in (Phase.STARTING, Phase.READY, Phase.IN_SERVICE) else [None]


def requests_of(role: Role, phase: Phase) -> list[Request | None]:
    """What can be asked of a member: `service.members` refuses the rest.

    A restart is asked of what is in service, but the member may have moved on before it is written.
    """
    if role is Role.STANDBY:
        return [None, None, None, Request.REMOVE]
    if phase in (Phase.READY, Phase.STARTING, Phase.IN_SERVICE, Phase.STOPPED, Phase.DRAINING):
        return [None, None, *Request]
    return [None, None, None, Request.REIMAGE, Request.REDEPLOY, Request.REMOVE]


@st.composite
def drives(draw: st.DrawFn, wanted: ScaleSet, known: list[Member], hosts: tuple[HostSighting, ...]) -> list[Drive]:
    """Of every declared name some: held by instances on their hosts, or free on any."""
    holders = [one for one in known if one.role is Role.INSTANCE and one.set_name == wanted.name]
    made = []
    for spec in wanted.spec.drives:
        for slot, holder in enumerate(draw(st.permutations([*holders, None, None]))):
            if draw(st.booleans()):
                host = holder.host if holder is not None else draw(st.sampled_from(hosts)).name
                member = holder.name if holder is not None else None
                failures = draw(st.integers(0, 2))
                durable = Drive(wanted.name, spec.name, slot, host, spec.size, member, NOW - 900.0)
                made.append(replace(durable, failures=failures))
    return made


@st.composite
def machines(draw: st.DrawFn, member: Member) -> MachineSighting | None:
    """What its host has under the member's name: nothing, this body, or one of an earlier incarnation."""
    power = draw(st.sampled_from(SEEN))
    if power is Power.ABSENT:
        return None
    older = draw(st.sampled_from([0, 0, 0, 1])) if member.incarnation > 1 else 0
    rebooted = power is Power.RUNNING and draw(st.sampled_from([False, False, True]))
    return see_machine(member, power, incarnation=member.incarnation - older, rebooted=rebooted)


@st.composite
def balancers(draw: st.DrawFn, desired: tuple[ScaleSet, ...], known: list[Member]) -> BalancerSighting:
    """Off, or with any servers in any state."""
    if draw(st.booleans()):
        return BalancerSighting(running=False)
    servers = {}
    for wanted in desired:
        for member in known:
            if member.set_name != wanted.name or draw(st.booleans()):
                continue
            state = draw(st.sampled_from(Rotation))
            seen = ServerSighting(state, draw(st.booleans()), draw(st.sampled_from([0, 0, 3])))
            for endpoint in wanted.spec.endpoints:
                servers[backend_name(wanted.name, endpoint.name), member.name] = seen
    return BalancerSighting(True, "somethingelse", servers)


@st.composite
def worlds(
    draw: st.DrawFn,
    memory: int = 64 * GIB,
    silent: bool = False,
    deleting: bool | None = None,
    emulates: bool | None = None,
) -> World:
    """`silent`: some hosts may not answer. `memory`: of each host, in bytes. `emulates`: whether hosts do; None:
    some may."""
    zones = draw(st.sampled_from([("a",), ("a", "b"), ("a", "b", "b")]))
    bare = tuple(
        see_host(
            name=f"h{number}",
            zone=zone,
            memory_total=memory,
            answers=not (silent and draw(st.booleans())),
            cpus=draw(st.integers(1, 3)),
            emulates=draw(st.sampled_from([False, True, None])) if emulates is None else emulates,
        )
        for number, zone in enumerate(zones)
    )
    desired = tuple(draw(sets(name, deleting)) for name in draw(st.sampled_from([("web",), ("api", "web")])))
    known: list[Member] = []
    seen: dict[str, list[MachineSighting]] = {host.name: [] for host in bare}
    for wanted in desired:
        for number in range(draw(st.integers(0, 6))):
            member = draw(members(wanted, number + 1, bare))
            known.append(member)
            machine = draw(machines(member))
            if machine is not None:
                seen[member.host].append(machine)
    for number in range(draw(st.integers(0, 2))):
        leak = make_member(desired[0], f"leak{number}", host=draw(st.sampled_from(bare)).name)
        seen[leak.host].append(see_machine(leak, draw(st.sampled_from(SEEN[:3]))))
    hosts = {host.name: _with(host, seen[host.name]) for host in bare}
    reads = {
        machine.domain: member.told
        for member in known
        for machine in seen[member.host]
        if member.told is not None and machine.member == member.name and _keeps(member, machine)
    }
    durable = [one for wanted in desired for one in draw(drives(wanted, known, bare))]
    return World(
        sizes={domain_name(PREFIX, member.name): member.memory for member in known},
        reads=reads,
        sets={one.name: one for one in desired},
        members={member.name: member for member in known},
        hosts=hosts,
        balancer=draw(balancers(desired, known)),
        drives={(one.set_name, one.name, one.slot): one for one in durable},
    )


@st.composite
def rollouts(draw: st.DrawFn, fails: bool = False) -> World:
    """A set whose model changed just now, or some time ago: as many instances as are declared, most of them of the
    older model and in service. `fails`: a further one, of the new model, has failed."""
    wanted = draw(sets(deleting=False))
    host = see_host(name="h0", cpus=draw(st.integers(1, 3)), emulates=draw(st.booleans()))
    known: list[Member] = []
    seen: list[MachineSighting] = []
    for number in range(wanted.spec.instances):
        odd = draw(st.sampled_from([False, False, False, False, True]))
        if odd:
            member = replace(draw(members(wanted, number + 1, (host,))), role=Role.INSTANCE, parked=None)
            if member.phase not in PHASES[Role.INSTANCE]:
                member = replace(member, phase=Phase.STARTING)
        else:
            member = make_member(wanted, f"{number + 1:05}", host=host.name, model=OLD_MODEL)
        known.append(member)
        machine = draw(machines(member)) if odd else see_machine(member)
        seen += [machine] if machine is not None else []
    for number in range(wanted.standby_target):
        member = make_member(
            wanted,
            f"{number + 101:05}",
            host=host.name,
            role=Role.STANDBY,
            phase=Phase.STANDBY,
            model=draw(st.sampled_from([wanted.model, OLD_MODEL])),
        )
        known.append(member)
        seen.append(see_machine(member, Power(wanted.pool_state.value)))
    if fails:
        phase = draw(st.sampled_from([Phase.FAILED, Phase.CREATING, Phase.PROVISIONING]))
        known.append(make_member(wanted, "00200", host=host.name, phase=phase, failures=draw(st.integers(2, 4))))
    return World(
        sets={wanted.name: wanted},
        members={member.name: member for member in known},
        hosts={host.name: _with(host, seen)},
        balancer=draw(balancers((wanted,), known)),
    )


def _keeps(member: Member, machine: MachineSighting) -> bool:
    """Whether its guest still reads what it was told. A restart by itself that the record knows of came before."""
    knows = machine.rebooted and member.phase in (Phase.IN_SERVICE, Phase.STANDBY)
    return machine.power in (Power.RUNNING, Power.HIBERNATED) and not knows


def _with(host: HostSighting, seen: list[MachineSighting]) -> HostSighting:
    """A host that does not answer shows nothing."""
    if not host.answers:
        return HostSighting(host.name, host.zone, answers=False, reason="connection refused")
    return replace(host, machines={machine.domain: machine for machine in seen})
