"""Facts about golden images that could not be taken or used, one for each host and model."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, insert, select

from orchestrator.models.golden import GoldenTrouble
from orchestrator.models.members import Member
from orchestrator.planner.golden import GIVES_UP_AFTER
from orchestrator.store.tables import facts, sets

_BEGIN = "golden:"
_TOGETHER = 1.0  # seconds: forks that were begun together fail together


def list_golden_troubles(connection: Connection) -> dict[tuple[str, str], GoldenTrouble]:
    """(host, model) -> what went wrong there."""
    query = select(facts.c.key, facts.c.value).where(facts.c.key.like(f"{_BEGIN}%"))
    found = {}
    for row in connection.execute(query):
        _, host, model = row.key.split(":")
        found[host, model] = GoldenTrouble(**json.loads(row.value))
    return found


def note_golden_trouble(
    connection: Connection, member: Member, reason: str, now: float, was_early: bool = False
) -> str:
    """One more failure in a row of the member's model on its host; the first are none if it was only too early.
    What there is to say: of the first its reason, of the last that it was the last."""
    before = list_golden_troubles(connection)
    known = before.get((member.host, member.model))
    failures = known.failures if known else 0
    if known is not None and failures and known.at <= now < known.at + _TOGETHER:
        return ""
    trouble = GoldenTrouble(0 if was_early and not failures else failures + 1, now, reason)
    end_golden_trouble(connection, member.host, member.model)
    value = json.dumps(vars(trouble))
    connection.execute(insert(facts).values(key=_key(member.host, member.model), value=value))
    declared = set(connection.execute(select(sets.c.model)).scalars())
    for host, model in before:
        if model not in declared:
            end_golden_trouble(connection, host, model)
    if trouble.failures == GIVES_UP_AFTER:
        return f"{reason}; machines of model {member.model} boot on {member.host} until it changes"
    return reason if trouble.failures == 1 else ""


def end_golden_trouble(connection: Connection, host: str, model: str) -> None:
    """All went well."""
    connection.execute(delete(facts).where(facts.c.key == _key(host, model)))


def end_golden_troubles(connection: Connection, set_name: str) -> None:
    """The operator has spoken: whatever was given up of the set's model is tried again."""
    model = connection.execute(select(sets.c.model).where(sets.c.name == set_name)).scalar()
    for host, other in list_golden_troubles(connection):
        if other == model:
            end_golden_trouble(connection, host, model)


def _key(host: str, model: str) -> str:
    return f"{_BEGIN}{host}:{model}"
