"""Instances in service whose machine died or whose services stopped answering (rows A10, D4).

HAProxy judges the services: it asks what readiness asks, and `failures` times; what it cannot ask is asked beside
the loop. What is restarted, made anew or replaced here was ready before; a machine that never gets there is the
life cycle's matter (`failed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.lifecycle.table import OFF
from orchestrator.models.members import Member, Phase, PoolState, Request, Role, RolloutLevel, ScaleSet
from orchestrator.models.sightings import Observed, Power, Rotation
from orchestrator.models.spec import Probe, ScaleSetSpec
from orchestrator.models.steps import Advance, GiveUp, NoteHealth, Repair, Step
from orchestrator.planner.backoff import MAX_TRIES, RetryLimits, pause_after
from orchestrator.planner.balancer import health_check, servers_of
from orchestrator.planner.drives import FreeDrives, held_back
from orchestrator.planner.restarts import is_held, repair_action, why_no_new_body


@dataclass
class Repairs:
    """`replaced`: whom a ready pool member is to take the place of; without one, the step given is what is done.

    `waiting` says what only time or the operator can help with, `wakes` (epoch seconds) when to look again.
    """

    steps: list[Step] = field(default_factory=list)
    replaced: list[tuple[Member, Step]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """What repairs are judged by, beside the records. `is_stopped`: the rollout of the set is."""

    powers: Mapping[str, Power]
    busy: frozenset[str]
    observed: Observed
    now: float
    limits: RetryLimits
    is_stopped: bool = False


def plan_repairs(wanted: ScaleSet, members: list[Member], at: Moment) -> Repairs:
    """What to do about the instances of one set that do not serve although they should."""
    made = Repairs()
    if wanted.deleting:
        return made
    instances = [member for member in members if member.role is Role.INSTANCE and not member.is_leaving]
    room = _room(wanted, members, at)
    for member in sorted(instances, key=lambda one: (one.unhealthy_since or at.now, one.name)):
        if member.phase is not Phase.IN_SERVICE or member.request is not None or member.name in at.busy:
            continue
        power = at.powers[member.name]
        if power in OFF:
            room -= _revive(wanted, member, at, made, room)
        elif member.name in at.observed.halted:  # a new start would find no room either
            made.waiting.append(f"{member.name} is paused: host {member.host} cannot write its disk")
        elif power is Power.RUNNING and _is_seen(wanted, member, at.observed):
            room -= _judge(wanted, member, at, made, room)
    return made


def _room(wanted: ScaleSet, members: list[Member], at: Moment) -> int:
    """How many more may go out of service for a repair now. Whose place waits for drives is away, too."""
    instances = [member for member in members if member.role is Role.INSTANCE and not member.is_leaving]
    missing = wanted.wanted_instances - len(instances)
    held = held_back(wanted, members, at.powers, missing, FreeDrives())
    allowed = max(len(instances) * wanted.spec.repair.max_unhealthy // 100, 1)
    return allowed - held - sum(_is_away(member) for member in instances)


def _is_away(member: Member) -> bool:
    """It has served, does not now, and is to again. Growth is missed by nobody yet, and who is given up does not
    come back by itself: neither may keep others from being repaired."""
    stays = member.phase in (Phase.IN_SERVICE, Phase.STOPPED) and member.request is None
    is_given_up = member.failures >= MAX_TRIES and (member.phase is Phase.FAILED or is_held(member))
    return member.served and not stays and not is_given_up


def _is_seen(wanted: ScaleSet, member: Member, observed: Observed) -> bool:
    """A balancer that does not run says nothing about its servers."""
    return observed.balancer.running or not wanted.spec.endpoints or member.name in observed.silent


def _revive(wanted: ScaleSet, member: Member, at: Moment, made: Repairs, room: int) -> int:
    """Its machine is off or gone, so `grace` does not count. 1 if it gets a new body or another takes its place.

    Nobody loses by a plain start, for which there is always room: after a power cut all come back together. New
    bodies and claims cost disks, pool and the hosts' time: there are as many as `max_unhealthy` allows.
    """
    action, power = repair_action(member, wanted, at.is_stopped), at.powers[member.name]
    trouble = f"machine of {member.name} is {power.value}"
    why_not = why_no_new_body(member, wanted, at.is_stopped) if power is Power.ABSENT else ""
    if action == "none" or why_not:
        made.waiting.append(f"{trouble}; {why_not or 'repair is off'}")
        return 0
    if not _may_try(member, member.phase_since, at, made, trouble):
        return 0
    if power is not Power.ABSENT and (power is not Power.CRASHED or action == "restart"):
        # A guest goes on with the time at which it was hibernated, whoever did it: remember that.
        parked = PoolState.HIBERNATED if power is Power.HIBERNATED else None
        reason = f"{trouble}; starting it again"
        made.steps.append(Advance(member, Phase.STARTING, reason, parked=parked, is_repair=True))
        return 0
    if room <= 0:
        _wait_for_room(member, at.now, made, trouble)
        return 0
    reason = f"{trouble}; making a new one from the image"
    anew = Advance(member, Phase.CREATING, reason, new_body=True, is_repair=True)
    # Of a machine that is gone nothing is left but its local storage and drives, which stay on its host.
    has_more = wanted.spec.local_storage is not None or bool(wanted.spec.drives or member.drives)
    _repair(anew, action == "replace" or (power is Power.ABSENT and not has_more), made)
    return 1


def _judge(wanted: ScaleSet, member: Member, at: Moment, made: Repairs, room: int) -> int:
    """Its machine runs: do its services answer? 1 if it goes out of service for a repair."""
    spec, since = wanted.spec, member.unhealthy_since
    if not is_unhealthy(wanted, member, at.observed):
        _note_well(wanted, member, at, made)
        return 0
    trouble = f"{member.name} does not pass its readiness checks"
    if since is None:
        made.steps.append(NoteHealth(member, at.now, False, trouble))
        return 0
    checks = [health_check(wanted, endpoint) for endpoint in spec.endpoints]
    sure = since + max([at.limits.repair_patience, *(check.interval * check.failures for check in checks)])
    if at.now < sure:
        made.wakes.append(sure)
        return 0
    action = repair_action(member, wanted, at.is_stopped)
    if action == "none":
        made.waiting.append(f"{trouble}; repair is off")
        return 0
    if not _may_try(member, member.phase_since + spec.repair.grace, at, made, trouble):
        return 0
    if room <= 0:
        _wait_for_room(member, at.now, made, trouble)
        return 0
    request = Request.RESTART if action == "restart" else Request.REIMAGE
    verb = "restarting" if request is Request.RESTART else "reimaging"
    _repair(Repair(member, request, f"{trouble}; {verb} it"), action == "replace", made)
    return 1


def _wait_for_room(member: Member, now: float, made: Repairs, trouble: str) -> None:
    """Said of the instance: while others are under way, nothing is said of what its set waits for."""
    words = f"{trouble}; as many as max_unhealthy allows are out of service already"
    made.waiting.append(words)
    if member.reason != words:
        since = member.unhealthy_since
        made.steps.append(NoteHealth(member, now if since is None else since, False, words))


def _note_well(wanted: ScaleSet, member: Member, at: Moment, made: Repairs) -> None:
    well_at = member.phase_since + wanted.spec.repair.grace
    is_well = member.failures > 0 and at.now >= well_at
    if member.unhealthy_since is not None or is_well:
        words = f"{member.name} passes its readiness checks"
        made.steps.append(NoteHealth(member, None, is_well, words))
    elif member.failures > 0:
        made.wakes.append(well_at)


def _may_try(member: Member, earliest: float, at: Moment, made: Repairs, trouble: str) -> bool:
    """False while it has to wait, or where it is given up: it has been tried often enough, and `earliest` was
    waited for after the last try, too."""
    is_tried_out = member.failures >= MAX_TRIES
    pause = pause_after(member.failures, at.limits) if member.failures and not is_tried_out else 0.0
    due = max(earliest, member.phase_since + pause)
    if at.now < due:
        what = "after its last try" if is_tried_out else "before the next try"
        made.waiting.append(f"{trouble}; it is given time {what}")
        made.wakes.append(due)
        return False
    if is_tried_out:
        _give_up(member, made, trouble)
    return not is_tried_out


def _give_up(member: Member, made: Repairs, trouble: str) -> None:
    """Said once, whatever else happens to the machine."""
    made.waiting.append(gave_up(member, trouble))
    if not member.reason.startswith(gave_up(member, "")):
        made.steps.append(GiveUp(member, gave_up(member, trouble)))


def _repair(step: Advance | Repair, from_pool: bool, made: Repairs) -> None:
    """`from_pool`: only where no member of the pool is ready."""
    if from_pool:
        made.replaced.append((step.member, step))
    else:
        made.steps.append(step)


def plan_without_disk(member: Member, wanted: ScaleSet, trouble: str) -> Advance:
    """What to record of a machine that cannot start because its ephemeral disk is gone.

    Made anew at once; after growing pauses where that did not help. While the rollout is stopped, an instance of
    an older model waits: it would be made of the model that fails.
    """
    is_stopped = wanted.rollout.level is RolloutLevel.STOPPED
    if is_stopped and member.role is Role.INSTANCE and member.model != wanted.model:
        return Advance(member, Phase.STARTING, trouble, is_held=True, asks=Request.RESTART)
    if member.failures > 1:
        return Advance(member, Phase.FAILED, trouble)
    reason = f"{trouble}; making a new one from the image"
    return Advance(member, Phase.CREATING, reason, new_body=True, is_repair=True)


def gave_up(member: Member, trouble: str) -> str:
    """The one message of row D4."""
    first_line = trouble.partition("\n")[0]
    return f"gave up on {member.name} after {member.failures} tries: {first_line}"


def is_unhealthy(wanted: ScaleSet, member: Member, observed: Observed) -> bool:
    """HAProxy would send it requests, but finds that it does not answer; or it fails a probe of another kind."""
    if member.name in observed.silent:
        return True
    servers = servers_of(member, wanted, observed.balancer)
    return any(server is not None and server.state is Rotation.READY and not server.is_up for server in servers)


def probes_to_watch(spec: ScaleSetSpec) -> tuple[Probe, ...]:
    """Readiness probes that HAProxy does not ask: commands, ports behind no endpoint, a second one on a port."""
    asked = {endpoint.port for endpoint in spec.endpoints}
    rest = []
    for probe in spec.readiness:
        if probe.port in asked:
            asked.discard(probe.port)
        else:
            rest.append(probe)
    return tuple(rest)
