"""A changed model reaches the reserve first, then the instances, bounded by `update` (row D5).

Nothing of it is remembered but what was told last: who is of an older model, who serves and what failed are read
from the records at every look. docs/rollout.md states what holds at every moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from orchestrator.lifecycle.table import AT_REST, UNFINISHED
from orchestrator.models.members import (
    Member,
    Phase,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.sightings import BalancerSighting, Observed, Power, Rotation
from orchestrator.models.steps import NoteRollout, Renew, Retire
from orchestrator.planner.balancer import servers_of
from orchestrator.planner.leaving import choose_to_drop
from orchestrator.planner.member import MemberPlan
from orchestrator.planner.parking import pool_of
from orchestrator.planner.sizing import NO_TURNOVER, Turnover
from orchestrator.planner.world import sighting_of

GIVES_UP_AFTER = 2  # failures of one member of the new model; the first may be chance
_FINDS_UP_WITHIN = 10.0  # seconds in which the load balancer finds a healthy server up
_LOOK = 0.5  # seconds until it is asked again


class RolloutState(StrEnum):
    """`POOL`: the reserve is being renewed; `ROLLING`: the instances are."""

    NONE = "none"
    POOL = "pool"
    ROLLING = "rolling"
    STOPPED = "stopped"


@dataclass(frozen=True)
class SetView:
    """What decides about the rollout of one set. `powers` by member; `found_up` names the members that the load
    balancer sends requests to, `found_down` those whose checks fail (the rest is not in rotation yet, or no more);
    `has_room`: some host could take one more machine."""

    wanted: ScaleSet
    members: tuple[Member, ...]
    powers: Mapping[str, Power]
    found_up: frozenset[str]
    found_down: frozenset[str]
    has_room: bool
    now: float

    @cached_property
    def instances(self) -> list[Member]:
        return [one for one in self.members if one.role is Role.INSTANCE and not one.is_leaving]

    def is_current(self, member: Member) -> bool:
        return member.model == self.wanted.model

    def serves(self, member: Member) -> bool:
        """In service, as recorded and as seen, and nothing is asked of it that would end that."""
        is_asked = member.request not in (None, Request.START)
        return self._runs_in_service(member) and not is_asked and member.name in self.found_up

    def is_idle(self, member: Member) -> bool:
        """Surely not serving. Between the two is what the load balancer has not taken in yet, after its restart
        for example."""
        return not self._runs_in_service(member) or member.name in self.found_down

    def awaits_rotation(self, member: Member) -> bool:
        return self._runs_in_service(member) and member.name not in self.found_up

    def _runs_in_service(self, member: Member) -> bool:
        return member.phase is Phase.IN_SERVICE and self.powers[member.name] is Power.RUNNING

    def is_outdated(self, member: Member) -> bool:
        """Of an older model, and so until it is replaced.

        What is not done, or has failed, starts over by itself; what the operator stopped is left until it is
        started.
        """
        starts_over = member.phase in (*UNFINISHED, Phase.FAILED)
        stopped = member.phase is Phase.STOPPED
        return not (self.is_current(member) or member.is_leaving or starts_over or stopped)


@dataclass(frozen=True)
class Rollout:
    """Where the rollout of a set stands. `reason` is why it stopped; `waiting` is what it waits for by itself."""

    state: RolloutState = RolloutState.NONE
    turnover: Turnover = NO_TURNOVER
    reason: str = ""
    waiting: MemberPlan | None = None

    def tries_again(self, member: Member, wanted: ScaleSet) -> bool:
        """One failure of the new model is no verdict: the rollout waits until the member was tried again."""
        is_on = self.state in (RolloutState.POOL, RolloutState.ROLLING)
        new = member.model == wanted.model and member.phase is Phase.FAILED
        return is_on and new and member.failures < GIVES_UP_AFTER

    def add_waiting(self, waits: list[MemberPlan]) -> list[MemberPlan]:
        """Its own wait comes first; where a member says what is the matter, numbers add nothing."""
        if self.waiting is None or (self.state is RolloutState.ROLLING and self.waiting.is_stuck and waits):
            return waits
        return [self.waiting, *waits]


def view_set(
    wanted: ScaleSet, members: Sequence[Member], seen: tuple[str, Observed], has_room: bool, now: float
) -> SetView:
    """`seen`: the prefix of domain names, and the sighting."""
    powers = {member.name: sighting_of(member, *seen).power for member in members}
    found = {member.name: find_in_rotation(member, wanted, seen[1].balancer) for member in members}
    up = frozenset(name for name, is_up in found.items() if is_up)
    down = frozenset(name for name, is_up in found.items() if is_up is False)
    return SetView(wanted, tuple(members), powers, up, down, has_room, now)


def find_in_rotation(member: Member, wanted: ScaleSet, balancer: BalancerSighting) -> bool | None:
    """Whether its checks pass on every endpoint; None if it is not in rotation on each of them. A set without
    endpoints has no balancer to ask."""
    servers = servers_of(member, wanted, balancer)
    if any(seen is None or seen.state is not Rotation.READY for seen in servers):
        return None
    return all(seen is not None and seen.is_up for seen in servers)


def replaces_in_place(wanted: ScaleSet) -> bool:
    """Whether instances keep their names, because something that was declared stays with a name: drives."""
    return bool(wanted.spec.drives)


def bounds_of(wanted: ScaleSet) -> tuple[int, int]:
    """(how many more, how many fewer than declared). Both 0, which a small set can make of percentages, would
    move nothing: then one fewer."""
    update, declared = wanted.spec.update, wanted.spec.instances
    surge, unavailable = update.surge(declared), update.unavailable(declared)
    return surge, unavailable if surge else max(unavailable, 1)


def plan_rollout(view: SetView, in_place: bool) -> Rollout:
    """Where the rollout stands and what it asks of the sizes now."""
    outdated = [member for member in view.members if view.is_outdated(member)]
    if view.wanted.deleting or not (outdated or _is_unfinished(view)):
        return Rollout()
    staying = [member for member in outdated if member.role is Role.INSTANCE and not _renews_itself(member)]
    held = Turnover(is_on=True, spare=0 if in_place else _spare(view, staying))
    failed = _find_failed(view)
    if failed is not None:
        return _stopped(view.wanted, failed, outdated, held)
    if not _goes_back(view) and not _is_pool_renewed(view):
        return Rollout(RolloutState.POOL, held)
    ready = [one for one in staying if one.request is None and view.powers[one.name] is not Power.UNKNOWN]
    turnover = _renew(view, ready, held) if in_place else _replace(view, ready, held)
    waiting = None if turnover.leave or turnover.surge else _wait(view, ready)
    return Rollout(RolloutState.ROLLING, turnover, waiting=waiting)


def _spare(view: SetView, staying: list[Member]) -> int:
    """How many instances above the declared number have a purpose: each of the current model that is to take the
    place of one of `staying`. What failed of another model, and would start over, has none."""
    surge, _ = bounds_of(view.wanted)
    current = sum(view.is_current(one) for one in view.instances)
    useless = sum(one.phase is Phase.FAILED and not view.is_current(one) for one in view.instances)
    surplus = len(view.instances) - useless - view.wanted.wanted_instances
    return max(min(surge, len(staying), current, surplus), 0)


def _goes_back(view: SetView) -> bool:
    """Whether a rollout that had not ended is undone: members of the wanted model are there, or on their way out,
    that it had not replaced yet. Who asks for that wants to be rid of what it brought: the pool can wait."""
    wanted, told = view.wanted, view.wanted.rollout
    if told.level is RolloutLevel.NONE or told.model == wanted.model or told.level is RolloutLevel.BACK:
        return told == RolloutCondition(RolloutLevel.BACK, wanted.model)
    return any(view.is_current(one) and (one.phase in AT_REST or one.is_leaving) for one in view.members)


def _renews_itself(member: Member) -> bool:
    """A reimage makes it current; one that is to be stopped is left until it is started."""
    return member.request in (Request.REIMAGE, Request.REDEPLOY, Request.STOP)


def _is_unfinished(view: SetView) -> bool:
    """A rollout that was told, and whose last machines are still being made or removed."""
    if view.wanted.rollout.level is RolloutLevel.NONE:
        return False
    leaving = any(one.is_leaving and not view.is_current(one) for one in view.members)
    making = any(one.phase not in AT_REST for one in view.instances)
    filling = any(one.phase not in AT_REST and not one.failures for one in pool_of(view.members))
    return leaving or making or filling


def _find_failed(view: SetView) -> Member | None:
    """The member for which the rollout stops: an instance of the new model that failed twice, or a pool member
    while nothing of the new model was ever ready."""
    current = [one for one in view.members if view.is_current(one) and not one.is_leaving]
    failed = [one for one in current if one.failures >= GIVES_UP_AFTER and one.phase not in AT_REST]
    if any(one.phase in AT_REST for one in current):
        failed = [one for one in failed if one.role is Role.INSTANCE]
    return min(failed, key=lambda one: (one.role is not Role.INSTANCE, one.created_at, one.name), default=None)


def _stopped(wanted: ScaleSet, failed: Member, outdated: list[Member], held: Turnover) -> Rollout:
    times = f"{failed.name} failed {failed.failures} times"
    if failed.phase is Phase.FAILED:
        words = f"{failed.name} failed: {failed.reason.partition(chr(10))[0]}"
    else:
        words = f"{times} and is tried again"
    stuck = f"the rollout of {wanted.name} is stopped, as {times}; to go back, apply the file of before"
    if ":" not in wanted.spec.image and any(one.image_digest != wanted.image.digest for one in outdated):
        # The same file would take the newest image again.
        stuck += f" with the version of its image (not 'image: {wanted.spec.image}')"
    return Rollout(RolloutState.STOPPED, held, words, MemberPlan(waiting=stuck, is_stuck=True))


def _is_pool_renewed(view: SetView) -> bool:
    """Nothing of an older model is left in the reserve; until the first instance of the new model serves, it is
    full again, too. What failed before, and what no host has room for, holds up nothing."""
    reserve = [one for one in view.members if one.role is Role.STANDBY]
    if any(not view.is_current(one) and view.powers[one.name] is not Power.UNKNOWN for one in reserve):
        return False
    if any(view.is_current(one) and view.serves(one) for one in view.instances):
        return True
    pool = [one for one in pool_of(reserve) if view.is_current(one)]
    if len(pool) < view.wanted.standby_target and view.has_room:
        return False
    settled = all(one.phase is Phase.STANDBY or one.failures for one in pool)
    return settled and (not pool or any(one.phase is Phase.STANDBY for one in pool))


def _floor(view: SetView) -> int:
    """How many must serve at least. What the operator stopped is not missed."""
    _, unavailable = bounds_of(view.wanted)
    stopped = sum(one.phase is Phase.STOPPED for one in view.instances)
    return max(view.wanted.wanted_instances - stopped - unavailable, 0)


def _replace(view: SetView, ready: list[Member], held: Turnover) -> Turnover:
    """Old ones leave where enough others serve; else new ones are made, as far as the surge goes."""
    idle = [one for one in ready if view.is_idle(one)]
    serving = [one for one in ready if view.serves(one)]
    above = sum(view.serves(one) for one in view.instances) - _floor(view)
    leave = choose_to_drop(view.wanted, idle, min(max(above + len(idle), 0), len(idle)))
    if len(leave) == len(idle):
        leave += choose_to_drop(view.wanted, serving, min(max(above, 0), len(serving)))
    surge, _ = bounds_of(view.wanted)
    if leave:
        steps = tuple(Retire(one, f"replacing {one.name} of an older model") for one in leave)
        return Turnover(True, held.spare, leave=steps)
    more = len(view.instances) - view.wanted.wanted_instances
    if more < 0:
        gone = [one.name for one in view.members if one.is_leaving and one.role is Role.INSTANCE]
        return Turnover(True, held.spare, replaced=() if surge else tuple(gone))
    count = max(min(surge, len(ready)) - more, 0)
    replaced = choose_to_drop(view.wanted, ready, min(more + count, len(ready)))[more:]
    return Turnover(True, held.spare, surge=count, replaced=tuple(one.name for one in replaced))


def _renew(view: SetView, ready: list[Member], held: Turnover) -> Turnover:
    """A new machine under the old name, for at most max(1, max_unavailable) instances at a time."""
    _, unavailable = bounds_of(view.wanted)
    idle = [one for one in ready if view.is_idle(one)]
    serving = [one for one in ready if view.serves(one)]
    absent = [one for one in view.instances if not view.serves(one) and one.phase is not Phase.STOPPED]
    room = max(unavailable, 1) - (len(absent) - len(idle))
    renewed = choose_to_drop(view.wanted, idle, min(max(room, 0), len(idle)))
    if len(renewed) == len(idle):
        renewed += choose_to_drop(view.wanted, serving, min(max(room - len(idle), 0), len(serving)))
    steps = tuple(Renew(one, f"renewing {one.name} of an older model in its place") for one in renewed)
    return Turnover(True, held.spare, leave=steps)


def _wait(view: SetView, ready: list[Member]) -> MemberPlan | None:
    """Why no step is possible, for when no member says so itself."""
    if not ready:
        return None
    title = f"the rollout of {view.wanted.name} waits"
    for member in view.instances:
        if view.awaits_rotation(member):
            is_stuck = view.now >= member.phase_since + _FINDS_UP_WITHIN
            words = f"{title}: the load balancer does not find {member.name} up"
            return MemberPlan(waiting=words, until=None if is_stuck else view.now + _LOOK, is_stuck=is_stuck)
    serving = sum(view.serves(one) for one in view.instances)
    return MemberPlan(waiting=f"{title}: {serving} instances serve, {_floor(view)} must", is_stuck=True)


def note_rollout(view: SetView, rollout: Rollout) -> NoteRollout | None:
    """What changed since it was told last."""
    wanted, told = view.wanted, view.wanted.rollout
    outdated = [member for member in view.members if view.is_outdated(member)]
    now = RolloutCondition(_level(view, rollout.state), wanted.model)
    if now.level is RolloutLevel.NONE:
        now = RolloutCondition()
    if now == told or wanted.deleting:
        return None
    event = _event(view, rollout, (told, now), outdated)
    reason = event[1] if event else f"the rollout of {wanted.name} is {now.level.value}"
    return NoteRollout(wanted.name, now, (event,) if event else (), reason)


def _level(view: SetView, state: RolloutState) -> RolloutLevel:
    if state in (RolloutState.NONE, RolloutState.STOPPED):
        return RolloutLevel(state.value)
    return RolloutLevel.BACK if _goes_back(view) else RolloutLevel.ON


def _event(
    view: SetView, rollout: Rollout, change: tuple[RolloutCondition, RolloutCondition], outdated: list[Member]
) -> tuple[str, str] | None:
    """(kind, words) of the change, None if nobody needs to know."""
    wanted, (told, now) = view.wanted, change
    name, image = wanted.name, wanted.image.ref
    if now.level is RolloutLevel.NONE:
        is_new = told.model == wanted.model and told.level is not RolloutLevel.BACK
        what = "the new model" if is_new else "the model of before"
        count = sum(view.is_current(one) for one in view.instances)
        who = f"1 instance of {name} is" if count == 1 else f"{count} instances of {name} are"
        return "rollout_done", f"{who} of {what}, image {image}"
    if now.level is RolloutLevel.STOPPED:
        return "rollout_stopped", f"the rollout of {name}, image {image}, is stopped: {rollout.reason}"
    if not outdated:
        return None
    if told.model == wanted.model:
        return "rollout_resumed", f"the rollout of {name} goes on: what had failed is ready or gone"
    old = sum(one.role is Role.INSTANCE for one in outdated)
    who = f"{old} in the set and {len(outdated) - old} in reserve are of"
    if now.level is RolloutLevel.BACK:
        words = f"{name} goes back to the model of before, image {image}: {who} the other one; {_rule(wanted)}"
        return "rollout_back", words
    words = f"rolling out a new model to {name}, image {image}: {who} an older one; {_rule(wanted)}"
    return "rollout_started", words


def _rule(wanted: ScaleSet) -> str:
    surge, unavailable = bounds_of(wanted)
    declared = wanted.wanted_instances
    if replaces_in_place(wanted):
        away = max(unavailable, 1)
        though = ", though max_unavailable allows none" if away > wanted.spec.update.unavailable(declared) else ""
        return (
            f"instances keep their names and drives, so machines are replaced in place, {away} at a time and out "
            f"of service meanwhile{though}: at least {max(declared - away, 0)} in service"
        )
    return f"at most {declared + surge} instances, at least {max(declared - unavailable, 0)} in service"
