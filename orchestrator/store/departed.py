"""Members that were let go. No name is given twice, so that a copy of the store of an older day cannot take a
machine that was made since for one that it has let go."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, insert, select

from orchestrator.models.members import Member
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Observed
from orchestrator.planner.strangers import unrecorded
from orchestrator.store.store import Store
from orchestrator.store.tables import departed

KEPT = 20_000


def remember_departed(connection: Connection, names: Iterable[str], now: float) -> None:
    for name in names:
        connection.execute(delete(departed).where(departed.c.name == name))
        connection.execute(insert(departed).values(name=name, at=now))
    if connection.execute(select(func.count()).select_from(departed)).scalar_one() > KEPT:
        oldest = select(departed.c.name).order_by(departed.c.at.desc()).offset(KEPT).subquery()
        connection.execute(delete(departed).where(departed.c.name.in_(select(oldest.c.name))))


def is_departed(connection: Connection, name: str) -> bool:
    return connection.execute(select(departed.c.name).where(departed.c.name == name)).first() is not None


def find_departed(store: Store, members: Iterable[Member], prefix: str, observed: Observed) -> frozenset[str]:
    """Which of the machines that no record names are of members that were let go."""
    begin = domain_name(prefix, "")
    names = {domain.removeprefix(begin) for _, domain in unrecorded(members, prefix, observed)}
    return store.find_departed(names) if names else frozenset()
