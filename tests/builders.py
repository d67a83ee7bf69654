"""Small functions that make values; every keyword overrides one field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.models.members import GuestPhase, Image, Member, Phase, Role, ScaleSet
from orchestrator.models.naming import backend_name, domain_name, machine_mac
from orchestrator.models.sightings import (
    BalancerSighting,
    HostSighting,
    MachineSighting,
    Observed,
    Power,
    Rotation,
    ServerSighting,
)
from orchestrator.models.spec import ScaleSetSpec, model_digest
from orchestrator.planner import Desired, Limits

MIB = 2**20
GIB = 2**30
NOW = 1_700_000_000.0
PREFIX = "understudy"
INSTALLATION = "0123456789abcdef"


def make_image(**fields: Any) -> Image:
    given: dict[str, Any] = {
        "name": "micro",
        "version": 1,
        "digest": "d1" * 32,
        "size": 20 * MIB,
        "virtual_size": 64 * MIB,
        "created_at": NOW - 1000,
        "source": "/srv/micro.qcow2",
    }
    return Image(**{**given, **fields})


def make_spec(**fields: Any) -> ScaleSetSpec:
    """As the loader would make it: validated, so sizes and durations carry their units."""
    given: dict[str, Any] = {
        "name": "web",
        "image": "micro",
        "instances": 2,
        "machine": {"memory": "128MiB"},
        "endpoints": [{"name": "http", "listen": 8080, "port": 80}],
    }
    return ScaleSetSpec.model_validate({**given, **fields})


def make_set(
    spec: ScaleSetSpec | None = None,
    *,
    image: Image | None = None,
    model: str | None = None,
    generation: int = 1,
    settled_generation: int = 0,
    deleting: bool = False,
    stuck: str = "",
) -> ScaleSet:
    spec = spec or make_spec()
    image = image or make_image()
    model = model if model is not None else model_digest(spec, image.digest)
    return ScaleSet(spec, model, image, generation, settled_generation, deleting, stuck)


def make_member(wanted: ScaleSet | None = None, suffix: str = "00001", **fields: Any) -> Member:
    """An instance in service of `wanted`, of its current model."""
    wanted = wanted or make_set()
    name = f"{wanted.name}-{suffix}"
    number = int(suffix) if suffix.isdigit() else 250
    given: dict[str, Any] = {
        "name": name,
        "set_name": wanted.name,
        "role": Role.INSTANCE,
        "phase": Phase.IN_SERVICE,
        "host": "local",
        "zone": "a",
        "address": f"127.77.{number // 250}.{number % 250 + 2}",
        "mac": machine_mac(INSTALLATION, name),
        "incarnation": 1,
        "model": wanted.model,
        "image_digest": wanted.image.digest,
        "request": None,
        "reason": f"{name} is here",
        "failures": 0,
        "created_at": NOW - 500 + number,
        "phase_since": NOW - 100,
        "memory": wanted.spec.machine.memory,
    }
    return Member(**{**given, **_knowing(**{**given, **fields})})


def _knowing(**fields: Any) -> dict[str, Any]:
    """Its guest was told where it is, and an instance has been in service, unless the fields say otherwise."""
    role, phase = fields["role"], fields["phase"]
    is_new = phase in (Phase.CREATING, Phase.PROVISIONING, Phase.FAILED)
    told = {
        (Role.STANDBY, Phase.READY): GuestPhase.STANDBY,
        (Role.STANDBY, Phase.STANDBY): GuestPhase.STANDBY,
        (Role.INSTANCE, Phase.IN_SERVICE): GuestPhase.IN_SERVICE,
        (Role.INSTANCE, Phase.DRAINING): GuestPhase.DRAINING,
    }
    has_served = role is Role.INSTANCE and not is_new
    return {"told": told.get((role, phase)), "entered": has_served, "served": has_served, **fields}


def make_members(wanted: ScaleSet, count: int, first: int = 1, **fields: Any) -> list[Member]:
    return [make_member(wanted, f"{number:05}", **fields) for number in range(first, first + count)]


def see_machine(member: Member, power: Power = Power.RUNNING, **fields: Any) -> MachineSighting:
    seen = MachineSighting(domain_name(PREFIX, member.name), member.name, member.incarnation, power)
    return replace(seen, **fields)


def see_host(*machines: MachineSighting, **fields: Any) -> HostSighting:
    given: dict[str, Any] = {
        "name": "local",
        "zone": "a",
        "answers": True,
        "memory_total": 64 * GIB,
        "memory_free": 32 * GIB,
        "cpus": 8,
        "machines": {machine.domain: machine for machine in machines},
    }
    return HostSighting(**{**given, **fields})


def see_server(state: Rotation = Rotation.READY, sessions: int = 0, is_up: bool = True) -> ServerSighting:
    return ServerSighting(state, is_up, sessions)


def see_balancer(
    wanted: ScaleSet, servers: dict[str, ServerSighting] | None = None, **fields: Any
) -> BalancerSighting:
    """A running balancer with these servers (by member name) behind every endpoint of the set."""
    seen = {
        (backend_name(wanted.name, endpoint.name), member): server
        for endpoint in wanted.spec.endpoints
        for member, server in (servers or {}).items()
    }
    return BalancerSighting(**{"running": True, "digest": "other", "servers": seen, **fields})


def see_world(*hosts: HostSighting, balancer: BalancerSighting | None = None) -> Observed:
    return Observed({host.name: host for host in hosts}, balancer or BalancerSighting(running=False))


def wish(*sets: ScaleSet, members: list[Member] | None = None, **limits: float) -> Desired:
    return Desired(tuple(sets), tuple(members or ()), PREFIX, Limits(**limits))
