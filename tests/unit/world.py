"""A world that exists only as a value: plan steps change it as the store's records and real effects would.

Effects succeed. `test_store_records` holds the record rules written here to those of `store.records`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from orchestrator.lifecycle.table import AFTER_SUCCESS
from orchestrator.models.balancing import BalancerConfig
from orchestrator.models.golden import GoldenTrouble, GoldenTroubles
from orchestrator.models.members import GuestPhase, Member, Phase, PoolState, Request, Role, ScaleSet
from orchestrator.models.naming import domain_name, machine_mac
from orchestrator.models.sightings import (
    BalancerSighting,
    HostSighting,
    MachineSighting,
    Observed,
    Power,
    ServerSighting,
)
from orchestrator.models.steps import (
    Admit,
    Advance,
    Claim,
    ConvergeBalancer,
    Effect,
    EffectKind,
    ForgetSet,
    GiveUp,
    Interrupt,
    NoteHealth,
    NotePool,
    NoteRestart,
    NoteRollout,
    NoteWait,
    Plan,
    RecordStep,
    RemoveGolden,
    RemoveLeak,
    Renew,
    Repair,
    Resume,
    Retire,
    Settle,
    Step,
)
from orchestrator.models.storage import Drive
from orchestrator.planner import Desired, Limits, plan
from orchestrator.planner.drives import Holder, drives_for
from orchestrator.planner.parking import PARKED_POWER, parked_state
from orchestrator.planner.restarts import plan_went_off
from orchestrator.planner.world import sighting_of
from tests.builders import INSTALLATION, NOW, PREFIX

LONGEST_LOOK = 5.0  # seconds that pass when there is nothing to do; the loop's safety net is of that size


@dataclass(frozen=True)
class World:
    """Records, machines and balancer at one moment. `busy` are the effects under way."""

    sets: Mapping[str, ScaleSet]
    members: Mapping[str, Member]
    hosts: Mapping[str, HostSighting]
    balancer: BalancerSighting
    now: float = NOW
    limits: Limits = field(default_factory=Limits)
    suspects: frozenset[tuple[str, str]] = frozenset()
    busy: Mapping[str, Effect] = field(default_factory=dict)
    admitted: int = 0
    reads: Mapping[str, GuestPhase] = field(default_factory=dict)  # domain -> what its guest reads about itself
    refusing: frozenset[str] = frozenset()  # members whose on_claim fails
    drives: Mapping[tuple[str, str, int], Drive] = field(default_factory=dict)  # (set, name, slot)
    no_goldens: frozenset[str] = frozenset()  # hosts that take no golden image
    golden_troubles: GoldenTroubles = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)  # domain -> bytes its machine was made with

    def desired(self) -> Desired:
        by_name = sorted(self.members.values(), key=lambda member: member.name)
        holding = tuple(replace(member, drives=self.held_by(member.name)) for member in by_name)
        sets = sorted(self.sets.values(), key=lambda one: one.name)
        gone = frozenset(domain.removeprefix(f"{PREFIX}-") for domain in self.machines()) - self.members.keys()
        drives = tuple(self.drives.values())
        troubles = self.golden_troubles
        return Desired(
            tuple(sets), holding, PREFIX, self.limits, None, drives, departed=gone, golden_troubles=troubles
        )

    def held_by(self, member: str) -> tuple[Drive, ...]:
        return tuple(one for one in self.drives.values() if one.member == member)

    def observed(self) -> Observed:
        return Observed(self.hosts, self.balancer)

    def plan(self) -> Plan:
        busy = {name: effect.kind for name, effect in self.busy.items()}
        return plan(self.desired(), self.observed(), busy, self.now, self.suspects)

    def power(self, member: Member) -> Power:
        return sighting_of(member, PREFIX, self.observed()).power

    def of(self, set_name: str, role: Role | None = None) -> list[Member]:
        return [
            member
            for member in self.members.values()
            if member.set_name == set_name and role in (None, member.role)
        ]

    def machines(self) -> Counter[str]:
        """Domain -> how many hosts have it."""
        return Counter(domain for host in self.hosts.values() for domain in host.machines)


# ---- records -------------------------------------------------------------------------------------------------


def record(world: World, step: RecordStep) -> World:
    """As `store.records.Recorder.perform` does; a step planned on an older record changes nothing."""
    match step:
        case Admit():
            return _admit(world, step)
        case Settle():
            wanted = world.sets.get(step.set_name)
            if wanted is None or wanted.generation != step.generation:
                return world
            settled = replace(wanted, settled_generation=step.generation, stuck=step.stuck)
            return replace(world, sets={**world.sets, wanted.name: settled})
        case NotePool() | NoteRollout():
            return _tell(world, step)
        case NoteWait():
            return reduce(lambda told, member: _change(told, member, reason=step.why), step.members, world)
        case ForgetSet():
            return replace(world, sets={name: one for name, one in world.sets.items() if name != step.set_name})
        case Claim():
            claimed = _change(world, step.member, reason=step.reason, **_changed(step))
            return claimed if claimed is world else _hold_drives(claimed, step.member.name, begins=True)
        case Retire():
            retired = _change(world, step.member, reason=step.reason, **_changed(step))
            return retired if retired is world else _pass_on(retired, step)
        case Advance():
            moved = _change(world, step.member, reason=step.reason, **_advanced(world, step))
            holds = moved is not world and step.new_body and step.member.role is Role.INSTANCE
            return _hold_drives(moved, step.member.name) if holds else moved
        case _:
            return _change(world, step.member, reason=step.reason, **_changed(step))


def _changed(step: Claim | Repair | NoteHealth | GiveUp | NoteRestart | Retire | Renew) -> dict[str, object]:
    match step:
        case Claim():
            place = {"role": Role.INSTANCE, "phase": step.phase, "told": None, "served": step.failures > 0}
            return {**place, **_counted(step.failures, step.reason)}
        case Repair():
            return {"request": step.request, **_counted(step.member.failures + 1, step.reason)}
        case NoteHealth():
            return {"unhealthy_since": step.unhealthy_since, **(_counted(0, "") if step.is_well else {})}
        case GiveUp():
            return {}
        case NoteRestart():
            return {"restarts": step.member.restarts + 1}
        case Retire():
            return {"request": Request.REMOVE}
        case Renew():
            return {"request": Request.REIMAGE}


def record_success(world: World, effect: Effect) -> World:
    """As `store.records.Recorder.succeeded` does."""
    member = effect.member
    following = AFTER_SUCCESS[member.phase, effect.kind]
    if following is None:
        if not _is_as_planned(world, member):
            return world
        free = {
            key: replace(one, member=None if one.member == member.name else one.member)
            for key, one in world.drives.items()
        }
        members = {name: one for name, one in world.members.items() if name != member.name}
        return replace(world, members=members, drives=free)
    at_start = effect.kind is EffectKind.TELL and member.phase is Phase.STARTING
    if at_start or effect.kind in (EffectKind.CREATE, EffectKind.FORK, EffectKind.AWAIT):
        declared = {one.name for one in world.sets[member.set_name].spec.drives}
        held = {(one.set_name, one.name, one.slot) for one in member.drives if one.name in declared}
        made = {key: replace(one, is_made=one.is_made or key in held) for key, one in world.drives.items()}
        world = replace(world, drives=made)
    fields: dict[str, object] = {}
    if effect.kind is EffectKind.TELL:
        fields["told"] = _word(member)
        if member.phase is Phase.STARTING:
            fields["entered"] = True
        return _change(world, member, **fields)
    if effect.kind in (EffectKind.START, EffectKind.SHUT_DOWN, EffectKind.HIBERNATE) and member.told:
        fields["told"] = None
    is_restart = effect.kind is EffectKind.SHUT_DOWN and member.request is Request.RESTART
    if is_restart:
        fields["request"] = None
    if following is not member.phase or is_restart:
        fields |= {"phase": following, **_made_body(world, effect)}
    if following is not member.phase and following is Phase.STANDBY:
        fields |= _counted(0, "")
    return _change(world, member, reason=effect.reason, **fields) if fields else world


def _made_body(world: World, effect: Effect) -> dict[str, object]:
    """What an effect that ends a phase tells of the machine."""
    wanted = world.sets[effect.member.set_name]
    if effect.kind in (EffectKind.CREATE, EffectKind.FORK) and effect.member.model == wanted.model:
        return {"memory": wanted.spec.machine.memory}
    return {}


def _tell(world: World, step: NotePool | NoteRollout) -> World:
    wanted = world.sets[step.set_name]
    if isinstance(step, NotePool):
        told = replace(wanted, pool=step.condition)
    else:
        told = replace(wanted, rollout=step.condition)
    return replace(world, sets={**world.sets, wanted.name: told})


def record_refusal(world: World, effect: Effect) -> World:
    """As `store.records.Recorder.refused` does for a claimed member, `failed` for one made cold."""
    member = effect.member
    if member.parked is not None:
        return _change(world, member, request=Request.REMOVE)
    return _change(world, member, phase=Phase.FAILED, **_counted(member.failures + 1, effect.reason))


def _record_no_golden(world: World, member: Member) -> World:
    """As `store.records.Recorder.golden_failed` does."""
    place = member.host, member.model
    known = world.golden_troubles.get(place)
    trouble = GoldenTrouble(known.failures + 1 if known else 1, world.now, "none can be taken")
    return replace(world, golden_troubles={**world.golden_troubles, place: trouble})


def _word(member: Member) -> GuestPhase:
    if member.phase is Phase.DRAINING:
        return GuestPhase.DRAINING
    return GuestPhase.IN_SERVICE if member.role is Role.INSTANCE else GuestPhase.STANDBY


def _admit(world: World, step: Admit) -> World:
    wanted = world.sets.get(step.set_name)
    if wanted is None:
        return world
    number = world.admitted + 1
    name = f"{step.set_name}-n{number:04}"
    member = Member(
        name=name,
        set_name=step.set_name,
        role=step.role,
        phase=Phase.CREATING,
        host=step.host,
        zone=step.zone,
        address=f"127.88.{number // 250}.{number % 250 + 2}",
        mac=machine_mac(INSTALLATION, name),
        incarnation=1,
        model=wanted.model,
        image_digest=wanted.image.digest,
        request=None,
        reason=step.reason,
        failures=0,
        created_at=world.now,
        phase_since=world.now,
        memory=wanted.spec.machine.memory,
    )
    admitted = replace(world, members={**world.members, name: member}, admitted=number)
    return _hold_drives(admitted, name, begins=True) if step.role is Role.INSTANCE else admitted


def _hold_drives(world: World, name: str, begins: bool = False) -> World:
    """As `store.drives.hold_drives` does; who begins with drives goes on with the failures that went with them."""
    member = world.members[name]
    known = [one for one in world.drives.values() if one.set_name == member.set_name]
    holder = Holder(name, member.set_name, member.host)
    changes = [one for one, _why in drives_for(known, world.sets[member.set_name].spec.drives, holder, world.now)]
    inherited = max((one.failures for one in changes), default=0)
    if begins and inherited > member.failures:
        said = "the instance that had its drives before it did not come to serve"
        heir = replace(member, failures=inherited, last_failure=said, served=True)
        world = replace(world, members={**world.members, name: heir})
    changed = {(one.set_name, one.name, one.slot): replace(one, failures=0) for one in changes}
    return replace(world, drives={**world.drives, **changed})


def _pass_on(world: World, step: Retire) -> World:
    passed = {
        key: replace(one, failures=step.failures) if one.member == step.member.name else one
        for key, one in world.drives.items()
    }
    return replace(world, drives=passed)


def _advanced(world: World, step: Advance) -> dict[str, object]:
    fields: dict[str, object] = {"phase": step.phase}
    if step.new_body:
        wanted = world.sets[step.member.set_name]
        fields["incarnation"] = step.member.incarnation + 1
        fields["model"] = wanted.model
        fields["image_digest"] = wanted.image.digest
        fields["parked"] = None
        fields["restarts"] = 0
        fields["memory"] = max(step.member.memory, wanted.spec.machine.memory)
        if step.member.model != wanted.model:
            fields |= _counted(0, "")
        fields["told"] = None
        fields["entered"] = False
        if step.new_storage:
            fields["storage_since"] = step.member.incarnation + 1
    if step.phase is Phase.STARTING or (step.phase is Phase.STANDBY and step.parked is not PoolState.RUNNING):
        fields["told"] = None
    if step.phase is Phase.IN_SERVICE:
        fields["parked"] = None
        fields["entered"] = True
        fields["served"] = True
    if step.parked is not None:
        fields["parked"] = step.parked
    if step.answered or step.asks is not None:
        fields["request"] = step.asks
    if step.is_held:
        fields["unhealthy_since"] = world.now
    return fields | _tries_after(step)


def _tries_after(step: Advance) -> dict[str, object]:
    if step.phase is Phase.STANDBY:
        return _counted(0, "")
    is_try = step.phase is Phase.FAILED or step.is_repair
    tries = step.member.failures + is_try
    return _counted(tries, step.reason) if is_try or (step.is_held and tries) else {}


def _counted(failures: int, reason: str) -> dict[str, object]:
    return {"failures": failures, "last_failure": reason if failures else ""}


def _change(world: World, planned: Member, **fields: object) -> World:
    if not _is_as_planned(world, planned):
        return world
    if "phase" in fields:
        fields = {"phase_since": world.now, "unhealthy_since": None, **fields}
    changed = replace(world.members[planned.name], **fields)  # type: ignore[arg-type]
    return replace(world, members={**world.members, planned.name: changed})


def _is_as_planned(world: World, planned: Member) -> bool:
    found = world.members.get(planned.name)
    return found is not None and (found.phase, found.incarnation, found.request) == (
        planned.phase,
        planned.incarnation,
        planned.request,
    )


# ---- effects -------------------------------------------------------------------------------------------------


_POWER_AFTER = {
    EffectKind.START: Power.RUNNING,
    EffectKind.SHUT_DOWN: Power.STOPPED,
    EffectKind.HIBERNATE: Power.HIBERNATED,
}


def carry_out(world: World, effect: Effect) -> World:
    """The effect on the machine, without its record."""
    member, domain = effect.member, domain_name(PREFIX, effect.member.name)
    if effect.kind in (EffectKind.CREATE, EffectKind.FORK):
        size = world.sets[member.set_name].spec.machine.memory
        world = replace(world, sizes={**world.sizes, domain: size})
    match effect.kind:
        case EffectKind.CREATE:
            made = MachineSighting(domain, member.name, member.incarnation, Power.RUNNING)
            return with_machine(_forgetting(world, domain), member.host, domain, made)
        case EffectKind.FORK:
            made = MachineSighting(domain, member.name, member.incarnation, Power.RUNNING, forked=True)
            return with_machine(_forgetting(world, domain), member.host, domain, made)
        case EffectKind.TAKE_GOLDEN:
            return with_goldens(world, member.host, world.hosts[member.host].goldens | {member.model})
        case EffectKind.START | EffectKind.SHUT_DOWN | EffectKind.HIBERNATE:
            found = world.hosts[member.host].machines[domain]
            power = _POWER_AFTER[effect.kind]
            if Power.HIBERNATED not in (found.power, power) and found.power is not power:
                world = _forgetting(world, domain)
            return with_machine(world, member.host, domain, replace(found, power=power))
        case EffectKind.DESTROY:
            return with_machine(_forgetting(world, domain), member.host, domain, None)
        case EffectKind.TELL:
            return replace(world, reads={**world.reads, domain: _word(member)})
        case EffectKind.PROVISION | EffectKind.AWAIT:
            return world


def _forgetting(world: World, domain: str) -> World:
    """What a guest was told is gone with its boot."""
    return replace(world, reads={name: word for name, word in world.reads.items() if name != domain})


def with_machine(world: World, host: str, domain: str, machine: MachineSighting | None) -> World:
    """None takes the machine away."""
    seen = world.hosts[host]
    machines = {name: one for name, one in seen.machines.items() if name != domain}
    if machine is not None:
        machines[domain] = machine
    return replace(world, hosts={**world.hosts, host: replace(seen, machines=machines)})


def with_goldens(world: World, host: str, models: frozenset[str]) -> World:
    return replace(world, hosts={**world.hosts, host: replace(world.hosts[host], goldens=models)})


def is_possible(world: World, effect: Effect) -> bool:
    """A guest can only be waited for while its machine runs; a silent host does nothing."""
    power = world.power(effect.member)
    waits_for_guest = (EffectKind.PROVISION, EffectKind.AWAIT, EffectKind.TELL)
    if effect.kind in (*waits_for_guest, EffectKind.HIBERNATE, EffectKind.TAKE_GOLDEN):
        return power is Power.RUNNING
    if effect.kind in (EffectKind.START, EffectKind.SHUT_DOWN):
        return power not in (Power.UNKNOWN, Power.ABSENT)
    return power is not Power.UNKNOWN


def converge_balancer(world: World, config: BalancerConfig) -> World:
    before = world.balancer.servers
    servers = {
        key: ServerSighting(state, True, before[key].sessions if key in before else 0)
        for key, state in config.server_states().items()
    }
    running = bool(config.frontends)
    digest = config.digest() if running else ""
    return replace(world, balancer=BalancerSighting(running, digest, servers))


# ---- turns ---------------------------------------------------------------------------------------------------

Witness = Callable[[World, Step], None]
"""Sees every step just before it is carried out."""


def nobody(_world: World, _step: Step) -> None:
    """A witness that says nothing."""


def after_step(world: World, step: Step, recorded: bool = True) -> World:
    """`recorded` False: a crash comes between the effect and its record."""
    match step:
        case Effect():
            if not is_possible(world, step):
                return world
            if step.kind is EffectKind.TAKE_GOLDEN and step.member.host in world.no_goldens:
                return _record_no_golden(world, step.member)
            done = carry_out(world, step)
            enters = step.kind is EffectKind.TELL and step.member.phase is Phase.STARTING
            if enters and recorded and step.member.name in world.refusing:
                return record_refusal(done, step)
            return record_success(done, step) if recorded else done
        case ConvergeBalancer():
            return converge_balancer(world, step.config)
        case RemoveLeak():
            return with_machine(world, step.host, step.domain, None)
        case RemoveGolden():
            return with_goldens(world, step.host, world.hosts[step.host].goldens - {step.model})
        case Resume():
            return world  # these disks have room
        case Interrupt():
            return interrupt(world, step)
        case _:
            return record(world, step)


def interrupt(world: World, step: Interrupt) -> World:
    member = step.member
    world = replace(world, busy={name: one for name, one in world.busy.items() if name != member.name})
    return (
        record(world, plan_went_off(member, world.sets[member.set_name], step.reason)) if step.went_off else world
    )


def after_turn(world: World, witness: Witness = nobody) -> tuple[World, Plan]:
    """One look and everything it led to; time passes only if there was nothing to do."""
    made = world.plan()
    world = _look_over(world, made)
    for step in made.steps:
        witness(world, step)
        world = after_step(world, step)
    return (world if made.steps else _pass_time(world, made)), made


def after_slow_turn(world: World, is_slow: Callable[[], bool], witness: Witness = nobody) -> tuple[World, Plan]:
    """As `after_turn`, but effects for which `is_slow` says so are only done in a later turn."""
    for name, effect in list(world.busy.items()):
        if not is_slow():
            world = replace(world, busy={key: one for key, one in world.busy.items() if key != name})
            witness(world, effect)
            world = after_step(world, effect)
    made = world.plan()
    world = _look_over(world, made)
    for step in made.steps:
        if isinstance(step, Effect) and is_slow():
            world = replace(world, busy={**world.busy, step.member.name: step})
        else:
            witness(world, step)
            world = after_step(world, step)
    return (world if made.steps or world.busy else _pass_time(world, made)), made


def after_crash(world: World, done: int) -> World:
    """The first `done` steps of a turn, effects without their records; then the controller forgets everything."""
    made = world.plan()
    for step in made.steps[:done]:
        world = after_step(world, step, recorded=False)
    return replace(world, suspects=frozenset(), busy={}, now=world.now + 1.0)


def interrupted(world: World, turns: int = 80) -> Iterator[tuple[str, World]]:
    """Every world in which a controller may have died on its way to rest, and after what: before each step, after
    each record, and after each effect, recorded or not, with the turn's other effects done or not. Whoever comes
    next remembers nothing."""
    for _ in range(turns):
        made = world.plan()
        world = bare = together = _look_over(world, made)
        for step in made.steps:
            yield f"before: {step.reason}", _forgotten(world)
            if isinstance(step, Effect):
                yield f"done, not recorded: {step.reason}", _forgotten(after_step(world, step, recorded=False))
                yield f"nothing done but: {step.reason}", _forgotten(after_step(bare, step, recorded=False))
                together = after_step(together, step, recorded=False)
            else:
                bare, together = after_step(bare, step), after_step(together, step)
            world = after_step(world, step)
        yield "everything done, nothing recorded", _forgotten(together)
        if not made.steps and made.wake_at is None:
            yield "at rest", _forgotten(world)
            return
        world = world if made.steps else _pass_time(world, made)
    raise AssertionError(f"not at rest after {turns} turns; next: {[step.reason for step in world.plan().steps]}")


def _forgotten(world: World) -> World:
    return replace(world, suspects=frozenset(), busy={}, now=world.now + 1.0)


def at_rest(world: World, turns: int = 80, witness: Witness = nobody) -> World:
    """Turn after turn until nothing is left to do. Raises AssertionError after `turns` turns."""
    for _ in range(turns):
        world, made = after_turn(world, witness)
        if not made.steps and made.wake_at is None:
            return world
    raise AssertionError(f"not at rest after {turns} turns; next: {[step.reason for step in world.plan().steps]}")


def _look_over(world: World, made: Plan) -> World:
    """A look takes up what it saw: suspects are remembered, restarts of guests are told once."""
    hosts = {
        name: replace(host, machines={key: replace(one, rebooted=False) for key, one in host.machines.items()})
        for name, host in world.hosts.items()
    }
    return replace(world, suspects=made.suspects, hosts=hosts)


def _pass_time(world: World, made: Plan) -> World:
    """To the moment the plan named, at least the safety net's pause."""
    return replace(world, now=max(world.now + LONGEST_LOOK, made.wake_at or 0.0))


# ---- what is wanted ------------------------------------------------------------------------------------------


def why_not_converged(world: World, wanted: ScaleSet) -> str:
    """Empty if the set is exactly as declared and its record says so."""
    mine = world.of(wanted.name)
    instances = [member for member in mine if member.role is Role.INSTANCE]
    pool = [member for member in mine if member.role is Role.STANDBY]
    if len(instances) != wanted.wanted_instances:
        return f"{len(instances)} instances instead of {wanted.wanted_instances}"
    if len(pool) != wanted.standby_target:
        return f"{len(pool)} in reserve instead of {wanted.standby_target}"
    for member in mine:
        if member.request is not None:
            return f"{member.name} still waits for its {member.request.value}"
        if why := _why_not_in_place(world, wanted, member):
            return f"{member.name} {why}"
    if wanted.settled_generation != wanted.generation or wanted.stuck:
        return (
            f"recorded as generation {wanted.settled_generation} of {wanted.generation}, stuck: {wanted.stuck!r}"
        )
    return ""


def _why_not_in_place(world: World, wanted: ScaleSet, member: Member) -> str:
    phase, power = Phase.IN_SERVICE, Power.RUNNING
    if member.role is Role.STANDBY:
        phase, power = Phase.STANDBY, PARKED_POWER[parked_state(member, wanted)]
        if parked_state(member, wanted) not in wanted.pool_shares:
            return f"is kept {member.parked}, which is not declared"
    if member.phase is Phase.STOPPED and member.role is Role.INSTANCE:
        return "runs, but was stopped" if world.power(member) is Power.RUNNING else ""
    if member.model != wanted.model:
        return "is of an older model"
    if member.phase is not phase:
        return f"is {member.phase.value} instead of {phase.value}"
    seen = world.power(member)
    return "" if seen is power else f"is seen {seen.value} instead of {power.value}"
