"""Members that are read again and again: what has not changed is the same value, whatever else has."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import insert, update

from orchestrator.models.members import Member, Phase
from orchestrator.models.steps import Advance
from orchestrator.models.storage import Drive
from orchestrator.store.tables import drives, members
from tests.builders import NOW
from tests.unit.storage import Storage


def by_name(storage: Storage) -> dict[str, Member]:
    return {one.name: one for one in storage.store.snapshot().members}


def test_a_member_that_changes_is_read_anew_and_the_others_are_the_same_values(storage: Storage) -> None:
    storage.declare(instances=2)
    one, other = storage.admit(), storage.admit()
    before = by_name(storage)
    storage.recorder.perform(Advance(one, Phase.PROVISIONING, "made"))
    after = by_name(storage)
    assert after[one.name].phase is Phase.PROVISIONING
    assert after[other.name] is before[other.name]


def test_any_column_that_changes_is_seen(storage: Storage) -> None:
    """Whoever writes it, and however little it is."""
    storage.declare()
    one = storage.admit()
    values = {
        "role": "standby",
        "phase": "standby",
        "host": "other",
        "zone": "z",
        "address": "127.9.9.9",
        "mac": "52:54:00:00:00:01",
        "incarnation": 7,
        "model": "m" * 16,
        "image_digest": "e" * 64,
        "request": "remove",
        "reason": "why not",
        "failures": 3,
        "created_at": NOW + 1,
        "phase_since": NOW + 2,
        "parked": "running",
        "restarts": 2,
        "unhealthy_since": NOW + 3,
        "told": "standby",
        "entered": True,
        "storage_since": 4,
        "last_failure": "no net",
        "served": True,
        "memory": 2**40,
    }
    assert {*values, "name", "set_name"} == set(members.c.keys())
    for column, value in values.items():
        before = by_name(storage)[one.name]
        with storage.store.database.write() as connection:
            connection.execute(update(members).values({column: value}))
        after = by_name(storage)[one.name]
        assert getattr(after, column) == value
        assert after == replace(before, **{column: getattr(after, column)})


def test_a_drive_that_comes_or_changes_is_its_holders(storage: Storage) -> None:
    storage.declare()
    one = storage.admit()
    assert by_name(storage)[one.name].drives == ()
    drive = Drive("web", "data", 0, "local", 2**24, one.name, NOW)
    with storage.store.database.write() as connection:
        connection.execute(insert(drives).values(**vars(drive)))
    assert by_name(storage)[one.name].drives == (drive,)
    with storage.store.database.write() as connection:
        connection.execute(update(drives).values(is_made=True))
    assert by_name(storage)[one.name].drives == (replace(drive, is_made=True),)


def test_a_member_that_is_gone_is_forgotten(storage: Storage) -> None:
    storage.declare()
    storage.admit()
    assert by_name(storage)
    with storage.store.database.write() as connection:
        connection.execute(members.delete())
    assert by_name(storage) == {}
