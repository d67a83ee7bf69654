"""reimage, redeploy, restart, stop, start, remove: one instance at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.context import TimeoutOption, opened_to_act, say, seconds
from orchestrator.cli.sets import carry_out_wish

if TYPE_CHECKING:
    from orchestrator.models.members import Member
    from orchestrator.store import Store

TargetArgument = Annotated[
    str, typer.Argument(metavar="SET/INSTANCE", help="For example web/web-4tz9k or web/4tz9k.")
]


def reimage(target: TargetArgument, timeout: TimeoutOption = None) -> None:
    """Give an instance a new machine from the image: same name and address; of its disks only local storage and
    drives are kept.

    Examples:

      understudy reimage web/4tz9k
    """
    from orchestrator.service import members

    _ask(members.reimage, target, timeout)


def redeploy(target: TargetArgument, timeout: TimeoutOption = None) -> None:
    """Give an instance a new machine without its old local storage. Its drives are kept.

    Examples:

      understudy redeploy web/4tz9k
    """
    from orchestrator.service import members

    limit = seconds(timeout)
    with opened_to_act() as runtime:
        member = members.redeploy(runtime.store, target)
        wanted = runtime.store.find_set(member.set_name)
        if wanted is not None and wanted.spec.local_storage is not None:
            say(f"{member.name} gets a new machine: what is on its local storage is lost; drives are kept")
        carry_out_wish(runtime, member.set_name, limit)


def restart(target: TargetArgument, timeout: TimeoutOption = None) -> None:
    """Restart an instance cleanly: out of rotation while it is down, its disks kept.

    Examples:

      understudy restart web/4tz9k
    """
    from orchestrator.service import members

    _ask(members.restart, target, timeout)


def stop(target: TargetArgument, timeout: TimeoutOption = None) -> None:
    """Switch an instance off, drained first, and leave it off until `start`; its disks are kept.

    Examples:

      understudy stop web/4tz9k
    """
    from orchestrator.service import members

    _ask(members.stop, target, timeout)


def start(target: TargetArgument, timeout: TimeoutOption = None) -> None:
    """Start an instance that was stopped; it gets traffic when its services answer.

    Examples:

      understudy start web/4tz9k
    """
    from orchestrator.service import members

    _ask(members.start, target, timeout)


def remove(target: TargetArgument, timeout: TimeoutOption = None) -> None:
    """Remove this very instance; the set gets one smaller. A pool member is replaced.

    Examples:

      understudy remove web/4tz9k
    """
    from orchestrator.service import members

    _ask(members.remove, target, timeout)


def _ask(wish: Callable[[Store, str], Member], target: str, timeout: str | None) -> None:
    limit = seconds(timeout)
    with opened_to_act() as runtime:
        member = wish(runtime.store, target)
        carry_out_wish(runtime, member.set_name, limit)
