"""What is, in the shape that `status --json` prints. Pure: records and a sighting in, plain data out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orchestrator.lifecycle.table import AT_REST, OFF
from orchestrator.models.members import Image, Member, Phase, Role, ScaleSet
from orchestrator.models.naming import domain_name, drive_volume
from orchestrator.models.sightings import Observed, Power
from orchestrator.models.steps import Effect, EffectKind, Note, Step, set_of
from orchestrator.models.storage import Drive
from orchestrator.planner import Desired, plan
from orchestrator.planner.placement import Placement
from orchestrator.planner.repair import is_unhealthy
from orchestrator.planner.restarts import is_held
from orchestrator.planner.rollout import (
    Rollout,
    RolloutState,
    find_in_rotation,
    plan_rollout,
    replaces_in_place,
    view_set,
)
from orchestrator.planner.spreading import even_shares, zones_of
from orchestrator.planner.strangers import strangers
from orchestrator.planner.world import sighting_of

_POWERS = {Power.CRASHED: "stopped", Power.ABSENT: "stopped"}


def set_status(
    wanted: ScaleSet, desired: Desired, observed: Observed, now: float, newer: Image | None = None
) -> dict[str, Any]:
    """One scale set; keys as published in docs/status.md. `newer`: the image that its file would roll out."""
    members = [member for member in desired.members if member.set_name == wanted.name]
    rollout = find_rollout(wanted, desired, observed, now)
    rows = [_member(member, wanted, desired, observed) for member in members]
    serving = [row for row in rows if row["phase"] == "in_service" and row["role"] == "instance"]
    return {
        "name": wanted.name,
        "image": wanted.image.ref,
        "newer_image": newer.ref if newer else None,
        "model": wanted.model,
        "converged": is_converged(wanted, desired, observed, now, rollout),
        "deleting": wanted.deleting,
        "reason": wanted.stuck,
        **_health(rows),
        "instances": {"desired": wanted.wanted_instances, "in_service": len(serving)},
        "endpoints": [
            {"name": one.name, "address": one.address, "port": one.listen} for one in wanted.spec.endpoints
        ],
        "members": rows,
        "drives": [_drive(one, desired.prefix) for one in desired.drives if one.set_name == wanted.name],
        "standby": _standby(wanted, members, rows),
        "zones": _zones(wanted, rows, zones_of(wanted, observed.hosts.values())),
        "rollout": _rollout(wanted, members, rollout),
    }


def is_converged(wanted: ScaleSet, desired: Desired, observed: Observed, now: float, rollout: Rollout) -> bool:
    """True if the last wish was met and a fresh plan finds nothing to do for the set."""
    if wanted.settled_generation != wanted.generation or wanted.stuck:
        return False
    if desired.hold or strangers(desired, observed):
        return False
    if wanted.spec.endpoints and not observed.balancer.running:
        return False
    if rollout.state is not RolloutState.NONE:
        return False
    mine = tuple(member for member in desired.members if member.set_name == wanted.name)
    others = frozenset(member.name for member in desired.members) | desired.departed
    alone = Desired((wanted,), mine, desired.prefix, desired.limits, drives=desired.drives, departed=others)
    steps = plan(alone, observed, {}, now).steps
    about_set = [step for step in steps if _is_of_wish(step) and set_of(step) == wanted.name]
    at_rest = all(member.phase in AT_REST for member in mine)
    ill = any(one.unhealthy_since is not None or is_unhealthy(wanted, one, observed) for one in mine)
    return not about_set and at_rest and not ill


def _is_of_wish(step: Step) -> bool:
    """A golden image is taken of what is as it should be."""
    takes = isinstance(step, Effect) and step.kind is EffectKind.TAKE_GOLDEN
    return not takes and not isinstance(step, Note)


def find_rollout(wanted: ScaleSet, desired: Desired, observed: Observed, now: float) -> Rollout:
    has_room = Placement.of(desired, observed).has_room(wanted.spec.machine.memory, wanted.spec.zones)
    members = [member for member in desired.members if member.set_name == wanted.name]
    view = view_set(wanted, members, (desired.prefix, observed), has_room, now)
    return plan_rollout(view, replaces_in_place(wanted))


def _rollout(wanted: ScaleSet, members: list[Member], found: Rollout) -> dict[str, Any]:
    """`paused`: it waits for a host or for room, and goes on by itself; `stopped`: for the operator."""
    state, reason = found.state.value, found.reason
    if found.state in (RolloutState.POOL, RolloutState.ROLLING) and wanted.stuck:
        state, reason = "paused", wanted.stuck.partition("\n")[0]
    instances = [one for one in members if one.role is Role.INSTANCE]
    current = [one for one in instances if one.model == wanted.model]
    return {
        "state": state,
        "updated": sum(one.phase is Phase.IN_SERVICE and not one.is_leaving for one in current),
        "stale": sum(one.model != wanted.model and not one.is_leaving for one in instances),
        "reason": reason,
    }


def _member(member: Member, wanted: ScaleSet, desired: Desired, observed: Observed) -> dict[str, Any]:
    seen = sighting_of(member, desired.prefix, observed)
    power = seen.power
    return {
        "name": member.name,
        "role": member.role.value,
        "phase": member.phase.value,
        "power": _POWERS.get(power, power.value),
        "parked": member.parked.value if member.parked else None,
        "told": member.told.value if member.told else None,
        "zone": member.zone,
        "host": member.host,
        "address": member.address,
        "domain": domain_name(desired.prefix, member.name),
        "incarnation": member.incarnation,
        "model": member.model,
        "stale": member.model != wanted.model,
        "in_rotation": _in_rotation(member, wanted, observed),
        "health": _member_health(member, wanted, power, observed),
        "restarts": member.restarts,
        "forked": seen.forked,
        "reason": member.reason,
        "failures": member.failures,
        "last_failure": member.last_failure,
        "created_at": member.created_at,
        "since": member.phase_since,
    }


def _health(rows: list[dict[str, Any]]) -> dict[str, str]:
    """`health` and `health_reason` of the instances; the pool has its own."""
    ill = [row for row in rows if row["role"] == "instance" and row["health"] != "healthy"]
    words = "; ".join(f"{row['name']} is {row['health']}{_cause(row)}" for row in ill)
    return {"health": "degraded" if ill else "healthy", "health_reason": words}


def _cause(row: dict[str, Any]) -> str:
    """Who is held is so for its reason."""
    is_held = (row["phase"], row["health"]) == ("starting", "unhealthy")
    failure = row["reason"] if is_held else row["last_failure"]
    return f": {_first_line(failure)}" if failure else ""


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _member_health(member: Member, wanted: ScaleSet, power: Power, observed: Observed) -> str:
    is_dead = power in OFF
    serves = member.phase is Phase.IN_SERVICE and member.role is Role.INSTANCE
    is_ill = member.unhealthy_since is not None or is_unhealthy(wanted, member, observed)
    if is_held(member) or (serves and (is_dead or is_ill)):
        return "unhealthy"
    # What is tried again has not recovered before it is there.
    is_tried_again = member.failures > 0 and member.phase not in AT_REST
    return "failed" if is_tried_again or member.phase is Phase.FAILED else "healthy"


def _drive(drive: Drive, prefix: str) -> dict[str, Any]:
    return {
        "name": drive.name,
        "slot": drive.slot,
        "size": drive.size,
        "host": drive.host,
        "member": drive.member,
        "deleting": drive.is_deleting,
        "volume": drive_volume(prefix, drive.set_name, drive.name, drive.slot),
    }


def _in_rotation(member: Member, wanted: ScaleSet, observed: Observed) -> bool:
    """HAProxy sends it new requests on every endpoint. A set without endpoints has no rotation."""
    return bool(wanted.spec.endpoints) and find_in_rotation(member, wanted, observed.balancer) is True


def _standby(wanted: ScaleSet, members: list[Member], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    pool = wanted.spec.standby
    reserve = [row for row in rows if row["role"] == Role.STANDBY.value]
    if pool is None and not reserve:
        return None
    # What failed and is tried again has not recovered before it is there.
    spares = [member for member in members if member.role is Role.STANDBY]
    failed = sorted(
        (one for one in spares if one.phase is Phase.FAILED or (wanted.pool.is_degraded and one.failures)),
        key=lambda one: one.phase is not Phase.FAILED,
    )
    zones: dict[str, Counter[str]] = {}
    for row in reserve:
        zones.setdefault(row["zone"], Counter())[pool_state_of(row)] += 1
    return {
        "state": pool.model_dump(mode="json")["state"] if pool else wanted.pool_state.value,
        "max_ready": pool.max_ready if pool else 0,
        "min_ready": pool.min_ready if pool else 0,
        "target": wanted.standby_target,
        "ready": sum(is_ready(row, wanted) for row in reserve),
        "health": "degraded" if failed else "healthy",
        "reason": _first_line(failed[0].last_failure or failed[0].reason) if failed else "",
        "states": dict(sum((Counter(counts) for counts in zones.values()), Counter())),
        "zones": {zone: dict(counts) for zone, counts in sorted(zones.items())},
    }


_POOL_STATES = {
    "creating": "creating",
    "provisioning": "creating",
    "ready": "running",
    "parking": "stopping",
    "starting": "starting",
    "deleting": "deleting",
    "draining": "deleting",
    "failed": "failed",
}


def _zones(wanted: ScaleSet, rows: list[dict[str, Any]], declared: tuple[str, ...]) -> dict[str, Any]:
    """Zone by zone, the declared ones in their order, then those in which members are left; what is there and its
    even share."""
    instances, reserve = (
        [row for row in rows if row["role"] == role.value and row["phase"] != "deleting"] for role in Role
    )
    shares = even_shares(declared, wanted.wanted_instances, Counter(row["zone"] for row in instances))
    pool = even_shares(declared, wanted.standby_target, Counter(row["zone"] for row in reserve))
    others = sorted({row["zone"] for row in rows} - set(declared))
    return {
        zone: {
            "declared": zone in declared,
            "instances": {
                "desired": shares.get(zone, 0),
                "in_service": sum(row["zone"] == zone and row["phase"] == "in_service" for row in instances),
            },
            "standby": {
                "target": pool.get(zone, 0),
                "ready": sum(row["zone"] == zone and is_ready(row, wanted) for row in reserve),
            },
        }
        for zone in (*declared, *others)
    }


def is_ready(row: dict[str, Any], wanted: ScaleSet) -> bool:
    """Whether a pool member may be handed out."""
    return row["phase"] == "standby" and not row["stale"] and row["power"] in _parked_as(row, wanted)


def _parked_as(row: dict[str, Any], wanted: ScaleSet) -> set[str]:
    """The power states in which a pool member may be handed out."""
    declared = {state.value for state in wanted.pool_shares}
    return declared & {row["parked"]} if row["parked"] else declared


def pool_state_of(row: dict[str, Any]) -> str:
    """The state of row B12 that a pool member is counted under."""
    if row["phase"] == "parking" and row.get("parked") == "hibernated":
        return "hibernating"
    return _POOL_STATES.get(str(row["phase"]), str(row["power"]))
