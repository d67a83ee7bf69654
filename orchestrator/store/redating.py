"""Recorded times follow a clock that was set, so that pauses and deadlines keep what is left of them."""

from __future__ import annotations

from sqlalchemy import Connection, and_, not_, update

from orchestrator.store.tables import members


def follow_clock(connection: Connection, before: float, by: float, now: float) -> None:
    """Move what was recorded until `before` by that many seconds. What is in the future all the same is now.

    What was recorded since the jump stays as it is.
    """
    for column in (members.c.phase_since, members.c.unhealthy_since):
        since_jump = and_(column >= before + by, column <= now)
        earlier = and_(column <= before, not_(since_jump))
        connection.execute(update(members).where(earlier).values({column: column + by}))
        connection.execute(update(members).where(column > now).values({column: now}))
