"""Phases of all members -> the one configuration the load balancer should have."""

from __future__ import annotations

from orchestrator.lifecycle.telling import has_to_enter
from orchestrator.models.balancing import BalancerConfig, Frontend, HealthCheck, Server
from orchestrator.models.members import Member, Phase, PoolState, Request, Role, ScaleSet
from orchestrator.models.naming import backend_name, reachable_port
from orchestrator.models.sightings import BalancerSighting, Observed, Power, Rotation, ServerSighting
from orchestrator.models.spec import Endpoint
from orchestrator.planner.parking import parked_state
from orchestrator.planner.world import Desired, sighting_of


def desired_balancer(desired: Desired, observed: Observed) -> BalancerConfig:
    """Every endpoint of every set with the servers that belong behind it, sorted."""
    members: dict[str, list[Member]] = {}
    for member in sorted(desired.members, key=lambda one: one.name):
        members.setdefault(member.set_name, []).append(member)
    fronts = [
        _frontend(wanted, endpoint, members.get(wanted.name, []), (desired.prefix, observed))
        for wanted in desired.sets
        for endpoint in wanted.spec.endpoints
        if not (wanted.deleting and not members.get(wanted.name))
    ]
    return BalancerConfig(tuple(sorted(fronts, key=lambda front: front.name)))


def _frontend(
    wanted: ScaleSet, endpoint: Endpoint, members: list[Member], world: tuple[str, Observed]
) -> Frontend:
    servers = []
    for member in members:
        state = rotation_of(member, wanted, sighting_of(member, *world).power)
        if state is not None:
            port = reachable_port(member.address, endpoint.port)
            is_proven = member.phase is Phase.READY
            servers.append(Server(member.name, member.address, port, state, is_proven))
    return Frontend(
        name=backend_name(wanted.name, endpoint.name),
        protocol=endpoint.protocol,
        address=endpoint.address,
        listen=endpoint.listen,
        check=health_check(wanted, endpoint),
        servers=tuple(servers),
    )


def rotation_of(member: Member, wanted: ScaleSet, power: Power) -> Rotation | None:
    """How a member stands in the balancer; None: not at all.

    Members of a running pool are servers in maintenance already, so that a claim is one runtime command. An
    instance whose machine is seen off leaves rotation at once; one whose host does not answer stays (HAProxy's
    own checks judge it).
    """
    if member.phase is Phase.DRAINING:
        return Rotation.DRAIN if power in (Power.RUNNING, Power.UNKNOWN) else None
    if member.phase in (Phase.IN_SERVICE, Phase.READY) and member.role is Role.INSTANCE:
        if member.request is Request.REMOVE and member.phase is Phase.READY:
            return None
        if member.phase is Phase.READY and has_to_enter(member, wanted):
            return Rotation.MAINT
        return Rotation.READY if power in (Power.RUNNING, Power.UNKNOWN) else Rotation.MAINT
    stands_by_running = member.phase is Phase.STANDBY and parked_state(member, wanted) is PoolState.RUNNING
    if stands_by_running or member.phase is Phase.STARTING:
        return Rotation.MAINT
    return None


def servers_of(member: Member, wanted: ScaleSet, balancer: BalancerSighting) -> list[ServerSighting | None]:
    """How the member stands behind each endpoint of its set, in their order; None where it is no server."""
    return [
        balancer.servers.get((backend_name(wanted.name, endpoint.name), member.name))
        for endpoint in wanted.spec.endpoints
    ]


def health_check(wanted: ScaleSet, endpoint: Endpoint) -> HealthCheck:
    """HAProxy asks what readiness asks, where a readiness probe is on the same port."""
    for probe in wanted.spec.readiness:
        if probe.http is not None and probe.http.port == endpoint.port:
            return HealthCheck(probe.http.path, probe.http.status, probe.interval, probe.failures)
        if probe.tcp is not None and probe.tcp.port == endpoint.port:
            return HealthCheck(interval=probe.interval, failures=probe.failures)
    return HealthCheck()
