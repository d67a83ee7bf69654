"""The next step of one member: the table's action, turned into a step with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.lifecycle.table import ANSWER, CARRIES_TRAFFIC, TABLE, UNFINISHED, Action
from orchestrator.lifecycle.telling import has_to_enter, is_untold, telling
from orchestrator.models.members import Member, Phase, PoolState, Request, Role, ScaleSet
from orchestrator.models.sightings import BalancerSighting, MachineSighting, Power, Rotation
from orchestrator.models.steps import Advance, Effect, EffectKind, NoteRestart, Step
from orchestrator.planner.backoff import MAX_TRIES, RetryLimits, retry_at
from orchestrator.planner.balancer import servers_of
from orchestrator.planner.parking import PARKED_POWER, parked_state
from orchestrator.planner.repair import gave_up
from orchestrator.planner.restarts import (
    held_until,
    is_held,
    plan_restart_again,
    plan_restarted,
    plan_unanswered,
    repair_action,
    why_no_new_body,
)


@dataclass(frozen=True)
class MemberPlan:
    """Steps for one member, or what it waits for; `is_stuck`: only time, the operator or the host can help."""

    steps: tuple[Step, ...] = ()
    waiting: str = ""
    until: float | None = None
    is_stuck: bool = False


@dataclass(frozen=True)
class MemberView:
    """All that decides about one member. `park_in` is the state a pool member is to be parked in; `may_fork`: its
    next body can go on from a golden image; `has_host`: its host is one of those that are configured;
    `is_stopped`: the rollout of its set is."""

    member: Member
    wanted: ScaleSet
    sighting: MachineSighting
    balancer: BalancerSighting
    now: float
    limits: RetryLimits
    park_in: PoolState
    has_host: bool = True
    may_fork: bool = False
    is_stopped: bool = False

    @property
    def action(self) -> str:
        return repair_action(self.member, self.wanted, self.is_stopped)


def plan_member(view: MemberView) -> MemberPlan:
    """What to do next about a member on which no work is under way."""
    member, sighting = view.member, view.sighting
    if not view.has_host:
        return _without_host(view)
    if sighting.power is Power.UNKNOWN:
        return MemberPlan(waiting=f"host {member.host} of {member.name} does not answer", is_stuck=True)
    too_early = member.request in _AFTER_SETUP and member.phase in (*UNFINISHED, Phase.FAILED)
    if member.request is not None and not too_early and member.phase not in (Phase.DRAINING, Phase.DELETING):
        return _begin_request(view, member.request)
    if member.phase in UNFINISHED and member.model != view.wanted.model:
        return _advance(view, Phase.CREATING, f"the model changed before {member.name} was done", new_body=True)
    return _ACTIONS[TABLE[member.phase][sighting.power]](view)


def _without_host(view: MemberView) -> MemberPlan:
    """Nothing can be done on its host any more; who is to go is let go of. Should the host come back with its
    machine, that is a leak."""
    member = view.member
    if member.phase is Phase.DELETING:
        reason = f"letting go of {member.name}: its host {member.host} is not configured any more"
        return _effect(view, EffectKind.DESTROY, reason)
    if member.request is Request.REMOVE:
        return _answer(view, Request.REMOVE)
    words = f"host {member.host} of {member.name} is not configured any more: add it to config.toml again, or"
    return MemberPlan(waiting=f"{words} understudy remove {member.set_name}/{member.name}", is_stuck=True)


# Requests that wait until a machine is set up.
_AFTER_SETUP = frozenset({Request.RESTART, Request.STOP})
_VERBS = {
    Request.REIMAGE: "reimaging",
    Request.REDEPLOY: "redeploying",
    Request.REMOVE: "removing",
    Request.STOP: "stopping",
    Request.START: "starting",
}


def _begin_request(view: MemberView, request: Request) -> MemberPlan:
    member = view.member
    serves = member.phase in CARRIES_TRAFFIC and member.role is Role.INSTANCE
    if serves and view.sighting.power is Power.RUNNING and request is not Request.START:
        return _advance(view, Phase.DRAINING, f"draining {member.name}: {member.reason}")
    return _answer(view, request)


def _answer(view: MemberView, request: Request) -> MemberPlan:
    member = view.member
    if request is Request.RESTART:
        if is_held(member):
            return _held_back(view) or MemberPlan((plan_restart_again(member, view.action),))
        if view.sighting.power is Power.RUNNING:
            return _effect(view, EffectKind.SHUT_DOWN, f"restarting {member.name}")
        step = Advance(member, Phase.STARTING, f"restarting {member.name}", answered=True)
        return MemberPlan((step,))
    phase = ANSWER[request]
    if request is Request.START and member.phase is not Phase.STOPPED:
        phase = member.phase  # it is on its way, or there, already
    step = Advance(
        member,
        phase,
        f"{_VERBS[request]} {member.name}",
        new_body=request in (Request.REIMAGE, Request.REDEPLOY),
        new_storage=request is Request.REDEPLOY,
        # A removal stays asked for until the record is gone.
        answered=request is not Request.REMOVE,
        parked=_wakes_from(view, phase),
    )
    return MemberPlan((step,))


def _advance(view: MemberView, phase: Phase, reason: str, new_body: bool = False) -> MemberPlan:
    step = Advance(view.member, phase, reason, new_body=new_body, parked=_wakes_from(view, phase))
    return MemberPlan((step,))


def _wakes_from(view: MemberView, phase: Phase) -> PoolState | None:
    """A machine found hibernated, whoever did it, goes on with the time of that moment: remember it."""
    hibernated = phase is Phase.STARTING and view.sighting.power is Power.HIBERNATED
    return PoolState.HIBERNATED if hibernated else None


def _effect(view: MemberView, kind: EffectKind, reason: str) -> MemberPlan:
    return MemberPlan((Effect(kind, view.member, reason),))


def _create(view: MemberView) -> MemberPlan:
    member, seen = view.member, view.sighting
    # What was begun is finished the same way.
    if seen.forked or (view.may_fork and seen.power is Power.ABSENT):
        return _effect(view, EffectKind.FORK, f"forking machine {member.incarnation} of {member.name}")
    return _effect(view, EffectKind.CREATE, f"creating machine {member.incarnation} of {member.name}")


def _provision(view: MemberView) -> MemberPlan:
    member, setup = view.member, view.wanted.spec.setup
    if view.sighting.forked or member.restarts >= setup.restarts:
        return _effect(view, EffectKind.PROVISION, f"setting up {member.name}")
    if view.sighting.rebooted:
        words = f"restart {member.restarts + 1} of {setup.restarts} of the setup of {member.name}"
        return MemberPlan((NoteRestart(member, words),))
    deadline = member.phase_since + setup.timeout
    missing = f"restart {member.restarts + 1} of {setup.restarts} that its setup performs"
    if view.now >= deadline:
        return _advance(view, Phase.FAILED, f"{member.name} did not come to {missing} in time")
    return MemberPlan(waiting=f"{member.name} comes to {missing}", until=deadline)


def _fail(view: MemberView) -> MemberPlan:
    power = view.sighting.power.value
    return _advance(view, Phase.FAILED, f"machine of {view.member.name} is {power} before its setup ended")


def _settle_in(view: MemberView) -> MemberPlan:
    member = view.member
    if member.role is Role.STANDBY:
        return _tell(view) if is_untold(member, view.wanted) else _park_in(view, f"{member.name} is ready")
    if has_to_enter(member, view.wanted):
        return _advance(view, Phase.STARTING, f"{member.name} is set up; on_claim is next")
    for server in servers_of(member, view.wanted, view.balancer):
        if server is None or server.state is not Rotation.READY:
            trouble = view.balancer.trouble
            return MemberPlan(waiting=trouble or f"{member.name} enters rotation", is_stuck=bool(trouble))
    return _advance(view, Phase.IN_SERVICE, f"{member.name} is in service")


def _start(view: MemberView) -> MemberPlan:
    member, power = view.member, view.sighting.power
    if is_held(member):
        held = _held_back(view)
        if held is None and view.action == "none":
            held = MemberPlan(waiting=f"machine of {member.name} is {power.value}; repair is off", is_stuck=True)
        if held is not None:
            return held
    elif power is Power.CRASHED and view.now >= member.phase_since + view.wanted.spec.setup.timeout:
        words = f"machine of {member.name} crashes whenever it is started"
        return MemberPlan((plan_unanswered(member, view.wanted, words),))
    return _effect(view, EffectKind.START, f"starting {member.name}")


def _tell(view: MemberView) -> MemberPlan:
    return _effect(view, EffectKind.TELL, telling(view.member, view.wanted))


def _await(view: MemberView) -> MemberPlan:
    held = _held_back(view) if is_held(view.member) else None
    if held is not None:
        return held
    if has_to_enter(view.member, view.wanted):
        return _tell(view)
    return _effect(view, EffectKind.AWAIT, f"waiting for the services of {view.member.name}")


def _held_back(view: MemberView) -> MemberPlan | None:
    """What a member that is held out of rotation waits for; None when its pause is over."""
    member = view.member
    until = held_until(member, view.limits)
    if until is None:
        return MemberPlan(waiting=gave_up(member, member.reason), is_stuck=True)
    if view.now >= until:
        return None
    what = "repair is off" if view.action == "none" else "it is given time before the next try"
    first_line, newline, rest = member.reason.partition("\n")
    return MemberPlan(waiting=f"{first_line}; {what}{newline}{rest}", until=until, is_stuck=True)


def _park_in(view: MemberView, why: str) -> MemberPlan:
    """A running member goes to the state it is to be parked in."""
    state = view.park_in
    if state is PoolState.RUNNING:
        step = Advance(view.member, Phase.STANDBY, f"{why}, standing by running", parked=state)
    else:
        step = Advance(view.member, Phase.PARKING, f"{why}; parking it {state.value}", parked=state)
    return MemberPlan((step,))


def _park(view: MemberView) -> MemberPlan:
    if parked_state(view.member, view.wanted) is PoolState.HIBERNATED:
        return _effect(view, EffectKind.HIBERNATE, f"hibernating {view.member.name} for the pool")
    return _effect(view, EffectKind.SHUT_DOWN, f"stopping {view.member.name} for the pool")


def _rest(view: MemberView) -> MemberPlan:
    state, power = parked_state(view.member, view.wanted), view.sighting.power
    if state is PoolState.HIBERNATED and power is not Power.HIBERNATED:
        return _advance(view, Phase.STARTING, f"{view.member.name} went off before its memory was saved")
    return _advance(view, Phase.STANDBY, f"{view.member.name} stands by {power.value}")


def _keep(view: MemberView) -> MemberPlan:
    """Parked as it should be, or moved there; a machine that is off goes through running (row B10)."""
    member, power = view.member, view.sighting.power
    if power is PARKED_POWER[view.park_in]:
        if view.sighting.rebooted and power is Power.RUNNING:
            return _advance(view, Phase.STARTING, f"the guest of {member.name} restarts by itself")
        if parked_state(member, view.wanted) is view.park_in:
            is_due = power is Power.RUNNING and is_untold(member, view.wanted)
            return _tell(view) if is_due else MemberPlan()
        step = Advance(member, Phase.STANDBY, f"{member.name} stands by {power.value}", parked=view.park_in)
        return MemberPlan((step,))
    if power is Power.RUNNING:
        return _park_in(view, f"{member.name} runs, but is to be kept {view.park_in.value}")
    return _advance(
        view, Phase.STARTING, f"{member.name} is {power.value}, but is to be kept {view.park_in.value}"
    )


def _watch(view: MemberView) -> MemberPlan:
    if view.sighting.rebooted:
        return MemberPlan((plan_restarted(view.member, view.action),))
    return _tell(view) if is_untold(view.member, view.wanted) else MemberPlan()


def _repair(view: MemberView) -> MemberPlan:
    return MemberPlan()


def _switch_off(view: MemberView) -> MemberPlan:
    return _effect(view, EffectKind.SHUT_DOWN, f"switching off {view.member.name}, as asked")


def _stay_off(view: MemberView) -> MemberPlan:
    return MemberPlan()


def _heal(view: MemberView) -> MemberPlan:
    power = view.sighting.power.value
    return _advance(view, Phase.STARTING, f"machine of {view.member.name} is {power}; starting it again")


def _rebuild(view: MemberView) -> MemberPlan:
    trouble = f"machine of {view.member.name} is {view.sighting.power.value}"
    why_not = why_no_new_body(view.member, view.wanted, view.is_stopped)
    if why_not:
        return MemberPlan(waiting=f"{trouble}; {why_not}", is_stuck=True)
    return _advance(view, Phase.CREATING, f"{trouble}; making a new one from the image", new_body=True)


def _drain(view: MemberView) -> MemberPlan:
    member = view.member
    deadline = member.phase_since + view.wanted.spec.scale_in.drain_timeout
    sessions = 0
    for server in servers_of(member, view.wanted, view.balancer):
        if server is not None and server.state is Rotation.READY:
            trouble = view.balancer.trouble
            if trouble and view.now >= deadline:
                return _leave(view, deadline)
            return MemberPlan(waiting=trouble or f"{member.name} leaves rotation", is_stuck=bool(trouble))
        sessions += server.sessions if server is not None else 0
    if sessions == 0 or view.now >= deadline or is_untold(member, view.wanted):
        return _leave(view, deadline)
    # HAProxy reports no end of sessions by itself: look again soon, at the latest at the deadline.
    return MemberPlan(
        waiting=f"{member.name} drains {sessions} sessions", until=min(deadline, view.now + DRAIN_LOOK)
    )


DRAIN_LOOK = 0.05


def _leave(view: MemberView, deadline: float) -> MemberPlan:
    """Out of rotation: the guest is told and on_drain runs. Without one, nothing is held up after the deadline."""
    has_time = bool(view.wanted.spec.hooks.on_drain) or view.now < deadline
    return _tell(view) if has_time and is_untold(view.member, view.wanted) else _continue(view)


def _continue(view: MemberView) -> MemberPlan:
    request = view.member.request
    if request is None:
        return _advance(view, Phase.STARTING, f"{view.member.name} returns to service")
    return _answer(view, request)


def _destroy(view: MemberView) -> MemberPlan:
    return _effect(view, EffectKind.DESTROY, f"removing the machine of {view.member.name}")


def _clean(view: MemberView) -> MemberPlan:
    return _effect(view, EffectKind.DESTROY, f"removing the failed machine of {view.member.name}")


def _retry(view: MemberView) -> MemberPlan:
    member = view.member
    is_given_up = member.failures >= MAX_TRIES and member.model == view.wanted.model
    if member.role is Role.INSTANCE and is_given_up:
        return MemberPlan(waiting=gave_up(member, member.reason), is_stuck=True)
    due = retry_at(member, view.limits)
    if view.now < due:
        return MemberPlan(waiting=f"{member.name} failed: {member.reason}", until=due, is_stuck=True)
    return _advance(
        view, Phase.CREATING, f"trying {member.name} again, failures: {member.failures}", new_body=True
    )


_ACTIONS: dict[Action, Callable[[MemberView], MemberPlan]] = {
    Action.CREATE: _create,
    Action.PROVISION: _provision,
    Action.FAIL: _fail,
    Action.SETTLE_IN: _settle_in,
    Action.START: _start,
    Action.AWAIT: _await,
    Action.PARK: _park,
    Action.REST: _rest,
    Action.KEEP: _keep,
    Action.WATCH: _watch,
    Action.SWITCH_OFF: _switch_off,
    Action.STAY_OFF: _stay_off,
    Action.HEAL: _heal,
    Action.REPAIR: _repair,
    Action.REBUILD: _rebuild,
    Action.DRAIN: _drain,
    Action.CONTINUE: _continue,
    Action.DESTROY: _destroy,
    Action.CLEAN: _clean,
    Action.RETRY: _retry,
}
