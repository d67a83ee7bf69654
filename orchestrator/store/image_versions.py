"""Which number an image's next version gets: one that was given is never given again, whatever was removed."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, func, insert, select

from orchestrator.store.tables import facts, images

_FACT = "given image version/"  # and the name


def give_version(connection: Connection, name: str, given: int) -> int:
    """The next number of that name, remembered. `given`: the highest that is known elsewhere."""
    version = max(list_given(connection).get(name, 0), given) + 1
    remember_version(connection, name, version)
    return version


def remember_version(connection: Connection, name: str, version: int) -> None:
    """It was given, and so were those before it."""
    if list_given(connection, with_images=False).get(name, 0) < version:
        connection.execute(delete(facts).where(facts.c.key == _FACT + name))
        connection.execute(insert(facts).values(key=_FACT + name, value=json.dumps(version)))


def list_given(connection: Connection, with_images: bool = True) -> dict[str, int]:
    """Name -> the highest number that was ever given.

    `with_images`: by the images that are there, too; an older version remembered nothing else.
    """
    query = select(facts.c.key, facts.c.value).where(facts.c.key.startswith(_FACT, autoescape=True))
    given = {row.key.removeprefix(_FACT): int(json.loads(row.value)) for row in connection.execute(query)}
    if with_images:
        newest = select(images.c.name, func.max(images.c.version).label("version")).group_by(images.c.name)
        for row in connection.execute(newest):
            given[row.name] = max(given.get(row.name, 0), row.version)
    return given
