"""Wishes about single instances: `SET/INSTANCE`."""

from __future__ import annotations

from orchestrator.errors import Conflict, SpecError
from orchestrator.lifecycle.table import UNFINISHED
from orchestrator.models.members import Member, Phase, Request, Role
from orchestrator.planner.restarts import is_held
from orchestrator.service.lookup import get_set
from orchestrator.store import Store


def find_member(store: Store, target: str) -> Member:
    """`web/web-4tz9k` or `web/4tz9k`. Raises SpecError, NotFound."""
    set_name, slash, name = target.partition("/")
    if not slash or not set_name or not name:
        raise SpecError(f"{target!r} does not name an instance", "write SET/INSTANCE, for example web/web-4tz9k")
    get_set(store, set_name)
    return store.get_member(set_name, name)


def reimage(store: Store, target: str) -> Member:
    """A new machine from the image, the same name and address; the ephemeral disk is thrown away."""
    member = _instance(store, target, "reimaged")
    store.request(member, Request.REIMAGE)
    return member


def redeploy(store: Store, target: str) -> Member:
    """As `reimage`, and with new local storage; its drives are kept."""
    member = _instance(store, target, "redeployed")
    store.request(member, Request.REDEPLOY)
    return member


def restart(store: Store, target: str) -> Member:
    """Out of rotation, clean restart, back into rotation; everything on its disks is kept."""
    member = _instance(store, target, "restarted")
    if member.phase is not Phase.IN_SERVICE and not is_held(member):
        raise Conflict(
            f"{member.name} is {member.phase.value}; what can be restarted is in service, or did not come up",
            f"wait for it: understudy status {member.set_name} --watch",
        )
    store.request(member, Request.RESTART)
    return member


def stop(store: Store, target: str) -> Member:
    """Out of rotation, switched off cleanly, and left off until it is started; its disks are kept."""
    member = _instance(store, target, "stopped")
    if member.phase is Phase.STOPPED and member.request is not Request.START:
        raise Conflict(f"{member.name} is stopped already", f"to start it: understudy start {target}")
    if member.phase in (*UNFINISHED, Phase.FAILED):
        raise Conflict(
            f"{member.name} is {member.phase.value}; only an instance that is set up can be stopped",
            f"wait for it, or take it away: understudy remove {target}",
        )
    store.request(member, Request.STOP)
    return member


def start(store: Store, target: str) -> Member:
    """Start what `stop` switched off; it enters rotation when its services answer."""
    member = _instance(store, target, "started")
    if member.phase is Phase.STOPPED:
        store.request(member, Request.START)
    elif member.request is Request.STOP:
        store.withdraw(member)
    else:
        raise Conflict(f"{member.name} is not stopped: it is {member.phase.value}")
    return member


def remove(store: Store, target: str) -> Member:
    """Take this very instance away; the set is one smaller. A pool member is removed and replaced."""
    member = find_member(store, target)
    _refuse_leaving(member)
    store.request(member, Request.REMOVE, fewer=1 if member.role is Role.INSTANCE else 0)
    return member


def _instance(store: Store, target: str, what: str) -> Member:
    member = find_member(store, target)
    if member.role is not Role.INSTANCE:
        raise Conflict(
            f"{member.name} stands by in the pool; only instances are {what}",
            f"to have a new one made: understudy remove {member.set_name}/{member.name}",
        )
    _refuse_leaving(member)
    return member


def _refuse_leaving(member: Member) -> None:
    if member.is_leaving:
        raise Conflict(f"{member.name} is already being removed")
