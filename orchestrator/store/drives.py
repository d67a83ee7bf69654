"""Drives as the store holds them: whose they are, and that no plan ever takes one away.

A row is there before its volume. It goes only by `forget`, which the operator's `--delete-drives` asks for.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from orchestrator.models.members import Member
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive
from orchestrator.planner.drives import Holder, drives_for
from orchestrator.store.database import Database
from orchestrator.store.rows import read_drive
from orchestrator.store.tables import drives


def list_drives(connection: Connection) -> tuple[Drive, ...]:
    """Of all sets, also of those that were deleted; by set, name and slot."""
    order = (drives.c.set_name, drives.c.name, drives.c.slot)
    return tuple(read_drive(row) for row in connection.execute(select(drives).order_by(*order)))


def hold_drives(connection: Connection, spec: ScaleSetSpec, holder: Holder, now: float) -> list[tuple[Drive, str]]:
    """Give an instance one drive of every declared name; what changed, and why. The failures that went with them
    are the instance's from now on."""
    if not spec.drives:
        return []
    known = [read_drive(row) for row in connection.execute(select(drives).where(drives.c.set_name == spec.name))]
    changes = drives_for(known, spec.drives, holder, now)
    for drive, _why in changes:
        done = connection.execute(update(drives).where(_is(drive)).values(member=drive.member, failures=0))
        if done.rowcount == 0:
            connection.execute(insert(drives).values(**vars(drive)))
    return changes


def pass_on_failures(connection: Connection, member: str, failures: int) -> None:
    """Whoever takes the member's drives after it goes on counting there."""
    connection.execute(update(drives).where(drives.c.member == member).values(failures=failures))


def release_drives(connection: Connection, member: str) -> None:
    """The member and its machine are gone: its drives wait for another instance."""
    connection.execute(update(drives).where(drives.c.member == member).values(member=None))


def mark_made(connection: Connection, spec: ScaleSetSpec, member: Member) -> None:
    """The member's machine has those of its drives that are declared: their volumes must be there from now on."""
    declared = {one.name for one in spec.drives}
    for drive in member.drives:
        if drive.name in declared:
            connection.execute(update(drives).where(_is(drive)).values(is_made=True))


def grow_drives(connection: Connection, spec: ScaleSetSpec) -> None:
    """Every drive has at least its declared size; and as the operator has spoken, what failed with one is over."""
    connection.execute(update(drives).where(drives.c.set_name == spec.name).values(failures=0))
    for wanted in spec.drives:
        smaller = (drives.c.set_name == spec.name) & (drives.c.name == wanted.name) & (drives.c.size < wanted.size)
        connection.execute(update(drives).where(smaller).values(size=wanted.size))


def give_up(database: Database, drive: Drive) -> bool:
    """Nobody may take it any more, so that its volume can be removed; False if somebody holds it."""
    with database.write() as connection:
        free = _is(drive) & drives.c.member.is_(None)
        return bool(connection.execute(update(drives).where(free).values(is_deleting=True)).rowcount)


def forget(database: Database, drive: Drive) -> None:
    """Its volume is gone."""
    with database.write() as connection:
        connection.execute(delete(drives).where(_is(drive) & drives.c.is_deleting.is_(True)))


def _is(drive: Drive) -> ColumnElement[bool]:
    return (drives.c.set_name == drive.set_name) & (drives.c.name == drive.name) & (drives.c.slot == drive.slot)
