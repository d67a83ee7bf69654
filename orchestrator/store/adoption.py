"""Writes what `adopt` found, in one transaction, and lets work begin again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from orchestrator.models.adoption import AdoptedSet, Adoption
from orchestrator.models.members import Image, Member
from orchestrator.models.storage import Drive
from orchestrator.store.departed import remember_departed
from orchestrator.store.store import HOLD, Store
from orchestrator.store.tables import drives, events, facts, images, members, sets


def write_adoption(store: Store, adoption: Adoption) -> None:
    """Raises StoreError; then nothing is written."""
    now = store.now()
    with store.database.write() as connection:
        for image in adoption.images:
            _add_image(connection, image)
        for one in adoption.sets:
            _put_set(connection, one, now)
        names = [member.name for member in (*adoption.members, *adoption.dropped)]
        connection.execute(delete(members).where(members.c.name.in_(names)))
        remember_departed(connection, [*(member.name for member in adoption.dropped), *adoption.left], now)
        for member in adoption.members:
            connection.execute(insert(members).values(**_member_row(member)))
            _note(connection, now, member.set_name, member.name, "adopted", member.reason)
        _put_drives(connection, adoption)
        connection.execute(delete(facts).where(facts.c.key == HOLD))


def _add_image(connection: Connection, image: Image) -> None:
    key = (images.c.name == image.name) & (images.c.version == image.version)
    if connection.execute(select(images.c.digest).where(key)).first() is None:
        connection.execute(insert(images).values(**vars(image)))


def _put_set(connection: Connection, one: AdoptedSet, now: float) -> None:
    declared = one.declared
    values: dict[str, Any] = {
        "spec": declared.spec.to_json(),
        "model": declared.model,
        "image_name": declared.image.name,
        "image_version": declared.image.version,
        "generation": declared.generation,
        "deleting": declared.deleting,
        "file": declared.file,
    }
    done = connection.execute(update(sets).where(sets.c.name == declared.name).values(**values))
    if done.rowcount == 0:
        fresh = {"settled_generation": 0, "stuck": "", "created_at": now}
        connection.execute(insert(sets).values(name=declared.name, **fresh, **values))
    words = f"{declared.name} was adopted: its declaration from the {one.source.value}, {one.found} machines found"
    _note(connection, now, declared.name, "", "set_adopted", words)


def _put_drives(connection: Connection, adoption: Adoption) -> None:
    for drive in (*adoption.drives, *adoption.dropped_drives):
        key = (drives.c.set_name == drive.set_name) & (drives.c.name == drive.name) & (drives.c.slot == drive.slot)
        connection.execute(delete(drives).where(key))
    for drive in adoption.drives:
        connection.execute(insert(drives).values(**_drive_row(drive)))


def _drive_row(drive: Drive) -> dict[str, Any]:
    return dict(vars(drive))


def _member_row(member: Member) -> dict[str, Any]:
    row = {name: value for name, value in vars(member).items() if name != "drives"}
    return {**row, "request": member.request.value if member.request else None}


def _note(connection: Connection, now: float, set_name: str, member: str, kind: str, reason: str) -> None:
    connection.execute(insert(events).values(at=now, set_name=set_name, member=member, kind=kind, reason=reason))
