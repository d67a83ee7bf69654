"""Crash safety, pure: whatever prefix of an operation was done, the planner brings the world to the same end.

Every step sequence of every operation is cut at every step, with the last effect recorded or not; every cut is
followed to its end, and a sample of them is cut once more on its way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from orchestrator.models.members import Member, Phase, Request, Role
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import BalancerSighting, Power, Rotation
from orchestrator.models.spec import model_digest
from orchestrator.models.steps import Effect, EffectKind, Step
from tests.builders import PREFIX, make_set, make_spec, see_host
from tests.unit.world import World, at_rest, interrupted, why_not_converged, with_machine

SECOND_CUTS = 5  # of the cuts of an operation every so many is cut once more

DRIVES: dict[str, Any] = {"drives": [{"name": "data", "size": "16MiB", "mount": "/data"}]}
HOOKS: dict[str, Any] = {"hooks": {"on_claim": ["come"], "on_drain": ["go"]}}


def started(**fields: Any) -> World:
    """Two empty hosts and a set that was just declared."""
    wanted = make_set(make_spec(**{"instances": 2, **fields}))
    hosts = {name: see_host(name=name, zone=zone) for name, zone in (("h0", "a"), ("h1", "b"))}
    return World({wanted.name: wanted}, {}, hosts, BalancerSighting(running=False))


def pool(state: object = "stopped", most: int = 3) -> dict[str, Any]:
    return {"standby": {"state": state, "max_ready": most}}


# ---- wishes --------------------------------------------------------------------------------------------------

Wish = Callable[[World], World]


def redeclared(**fields: Any) -> Wish:
    def wish(world: World) -> World:
        (wanted,) = world.sets.values()
        given = make_spec(**fields)
        spec = wanted.spec.model_copy(update={key: getattr(given, key) for key in fields})
        model = model_digest(spec, wanted.image.digest)
        changed = replace(wanted, spec=spec, model=model, generation=wanted.generation + 1)
        return replace(world, sets={wanted.name: changed})

    return wish


def deleting(world: World) -> World:
    (wanted,) = world.sets.values()
    changed = replace(wanted, deleting=True, generation=wanted.generation + 1)
    return replace(world, sets={wanted.name: changed})


def first_instance(world: World) -> Member:
    return min(world.of("web", Role.INSTANCE), key=lambda one: one.name)


def asked(request: Request) -> Wish:
    def wish(world: World) -> World:
        member = replace(first_instance(world), request=request)
        world = replace(world, members={**world.members, member.name: member})
        (wanted,) = world.sets.values()
        fewer = {"instances": wanted.spec.instances - 1} if request is Request.REMOVE else {}
        return redeclared(**fewer)(world)

    return wish


def stopped_and_asked_to_start(world: World) -> World:
    return asked(Request.START)(at_rest(asked(Request.STOP)(world)))


def died(power: Power) -> Wish:
    """The machine of an instance, long after it entered service."""

    def wish(world: World) -> World:
        member = first_instance(world)
        domain = domain_name(PREFIX, member.name)
        seen = world.hosts[member.host].machines[domain]
        machine = None if power is Power.ABSENT else replace(seen, power=power)
        world = with_machine(world, member.host, domain, machine)
        return replace(world, now=world.now + 10_000.0)

    return wish


def nothing(world: World) -> World:
    return world


FRESH = "fresh"  # the operation begins with the declaration

OPERATIONS: dict[str, tuple[dict[str, Any], Wish]] = {
    "apply": ({FRESH: True, **pool(), **DRIVES, **HOOKS}, nothing),
    "apply with a mixed pool": ({FRESH: True, **pool({"running": "50%", "hibernated": "50%"}, 4)}, nothing),
    "scale out from a stopped pool": ({**pool(), **DRIVES, **HOOKS}, redeclared(instances=3)),
    "scale out from a running pool": ({**pool("running"), **DRIVES}, redeclared(instances=3)),
    "scale out from a hibernated pool": ({**pool("hibernated"), **HOOKS}, redeclared(instances=3)),
    "scale out cold": ({**DRIVES}, redeclared(instances=4)),
    "scale in": ({**pool(), **DRIVES, **HOOKS}, redeclared(instances=1)),
    "the pool changes its state": (pool("stopped"), redeclared(standby={"state": "running", "max_ready": 3})),
    "reimage": ({**DRIVES, **HOOKS}, asked(Request.REIMAGE)),
    "redeploy": ({**DRIVES}, asked(Request.REDEPLOY)),
    "restart": ({**DRIVES}, asked(Request.RESTART)),
    "stop": ({}, asked(Request.STOP)),
    "start": ({}, stopped_and_asked_to_start),
    "remove": ({**pool(), **DRIVES}, asked(Request.REMOVE)),
    "repair by restart": ({"repair": {"action": "restart"}, **DRIVES}, died(Power.CRASHED)),
    "repair by reimage": ({"repair": {"action": "reimage"}, **DRIVES}, died(Power.CRASHED)),
    "repair by replacement": ({"repair": {"action": "replace"}, **pool(), **DRIVES}, died(Power.CRASHED)),
    "repair of a machine that vanished": ({**DRIVES}, died(Power.ABSENT)),
    "rollout": (pool(), redeclared(machine={"memory": "256MiB"})),
    "rollout in place": ({**pool(), **DRIVES}, redeclared(machine={"memory": "256MiB"})),
    "delete": ({**pool(), **DRIVES, **HOOKS}, deleting),
}

# Nobody but these may make an instance go: of every other operation all are kept under their names.
LOSES = {"scale in", "remove", "repair by replacement", "rollout", "delete"}
REPLACES = {"repair by replacement", "rollout"}


def begun(operation: str) -> World:
    fields, wish = OPERATIONS[operation]
    fresh = started(**{key: value for key, value in fields.items() if key != FRESH})
    return wish(fresh if FRESH in fields else at_rest(fresh))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_after_every_prefix_the_world_comes_to_the_same_end(operation: str) -> None:
    begin = begun(operation)
    whole = outcome(at_rest(begin))
    cuts = 0
    for number, (after, cut) in enumerate(interrupted(begin)):
        if not cut.sets:  # no command of the operator's would look again
            assert (cut.members, cut.machines(), cut.balancer.running) == ({}, Counter(), False), after
        end = at_rest(cut, witness=see_no_harm)
        assert_same_end(operation, begin, end, whole, after)
        cuts += 1
        if number % SECOND_CUTS == 0:
            for again, second in islice(interrupted(cut), number % 7, None, 7):
                end = at_rest(second, witness=see_no_harm)
                assert_same_end(operation, begin, end, whole, f"{after}; then {again}")
    assert cuts > 3


def see_no_harm(world: World, step: Step) -> None:
    """Nobody has two machines, and nothing is done to a machine that requests are sent to."""
    assert all(count == 1 for count in world.machines().values())
    if isinstance(step, Effect) and step.kind in (EffectKind.DESTROY, EffectKind.SHUT_DOWN):
        states = {member: server.state for (_, member), server in world.balancer.servers.items()}
        if world.power(step.member) is Power.RUNNING:
            assert states.get(step.member.name) is not Rotation.READY, step.reason


def outcome(world: World) -> Counter[tuple[str, str, str]]:
    """How many members there are of each role, phase and power."""
    return Counter((one.role.value, one.phase.value, world.power(one).value) for one in world.members.values())


def assert_same_end(
    operation: str, begin: World, end: World, whole: Counter[tuple[str, str, str]], after: str
) -> None:
    assert outcome(end) == whole, after
    for wanted in end.sets.values():
        assert why_not_converged(end, wanted) == "", after
    assert end.plan().steps == (), after
    _assert_nothing_left_over(end, after)
    _assert_no_instance_lost(operation, begin, end, after)
    _assert_no_drive_lost(begin, end, after)


def _assert_nothing_left_over(end: World, after: str) -> None:
    off = {name for name, one in end.members.items() if one.phase is Phase.STOPPED}
    domains = {domain_name(PREFIX, name): name for name in end.members}
    there = end.machines()
    assert set(there.values()) <= {1}, after
    assert set(there) <= set(domains), after
    assert {domains[one] for one in set(domains) - set(there)} <= off, after
    assert {member for _, member in end.balancer.servers} <= set(end.members), after
    assert end.balancer.running == bool(end.sets), after
    addresses = [one.address for one in end.members.values()]
    assert len(set(addresses)) == len(addresses), after


def _assert_no_instance_lost(operation: str, begin: World, end: World, after: str) -> None:
    before = {one.name for one in begin.of("web", Role.INSTANCE)}
    now = {one.name for one in end.of("web", Role.INSTANCE)}
    if operation not in LOSES:
        assert before <= now, after
    elif operation not in REPLACES:
        assert now <= before, after


def _assert_no_drive_lost(begin: World, end: World, after: str) -> None:
    assert set(begin.drives) <= set(end.drives), after
    assert all(end.drives[key].is_made or not one.is_made for key, one in begin.drives.items()), after
    instances = {one.name for one in end.of("web", Role.INSTANCE)}
    held = Counter((one.member, one.name) for one in end.drives.values() if one.member is not None)
    assert set(held.values()) <= {1}, after
    assert {member for member, _ in held} <= instances, after
    if any(one.spec.drives for one in end.sets.values()):
        assert {member for member, _ in held} == instances, after
    # Who keeps its name keeps what is on its drives.
    for name in {one.name for one in begin.of("web", Role.INSTANCE)} & instances:
        mine = {key for key, one in begin.drives.items() if one.member == name}
        assert mine <= {key for key, one in end.drives.items() if one.member == name}, after


def test_every_kind_of_effect_is_cut_off_from_its_record_in_some_operation() -> None:
    """What the test above walks over."""
    reasons = {after for operation in OPERATIONS for after, _ in interrupted(begun(operation))}
    cut = [reason.partition(": ")[2] for reason in reasons if reason.startswith("done, not recorded: ")]
    words = {
        EffectKind.CREATE: "creating machine",
        EffectKind.FORK: "forking machine",
        EffectKind.TAKE_GOLDEN: "taking a golden image",
        EffectKind.PROVISION: "setting up",
        EffectKind.START: "starting",
        EffectKind.AWAIT: "waiting for the services",
        EffectKind.SHUT_DOWN: "stopping",
        EffectKind.HIBERNATE: "hibernating",
        EffectKind.DESTROY: "removing",
        EffectKind.TELL: "telling",
    }
    assert [kind for kind, begin in words.items() if not any(one.startswith(begin) for one in cut)] == []
