"""The controller lease: at most one process converges at a time.

The holder renews it well before it expires; a dead holder on this machine is noticed at once, one elsewhere
when the lease runs out. A holder that was held up finds out by the row: whoever took it meanwhile stands there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from orchestrator.store.store import Store
from orchestrator.store.tables import leases

LEASE_TTL = 10.0  # seconds
_FRESH = LEASE_TTL / 2
_RENEW_AFTER = 1.0  # seconds: turns that follow each other at once need not write it each time


class Lease:
    """One process's claim to be the controller. `monotonic`: seconds that go on while the process is stopped."""

    def __init__(
        self,
        store: Store,
        name: str = "controller",
        holder: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._name = name
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"
        self._monotonic = monotonic
        self._term = 0
        self._confirmed_at = float("-inf")
        self._renewed_at = float("-inf")  # by the store's clock, which may be set
        self._seen: tuple[str, float] | None = None  # the other holder and its expiry
        self._seen_at = 0.0

    @property
    def term(self) -> int:
        """Grows by one each time the lease is taken anew: what was decided under an earlier one is void."""
        return self._term

    def take(self) -> bool:
        """Take or renew; False while somebody else who lives holds it. Raises StoreError.

        One that was renewed within the last second is only looked at.
        """
        asked_at, now = self._monotonic(), self._store.now()
        if self._is_recent(asked_at, now) and self.is_ours():
            return True
        with self._store.database.write_lease() as connection:
            row = connection.execute(select(leases).where(leases.c.name == self._name).with_for_update()).first()
            values = {"holder": self._holder, "expires_at": now + LEASE_TTL}
            if row is None:
                connection.execute(insert(leases).values(name=self._name, **values))
            elif row.holder != self._holder and row.expires_at > now and self._may_hold(row):
                return False
            else:
                connection.execute(update(leases).where(leases.c.name == self._name).values(**values))
        if row is None or row.holder != self._holder:
            self._term += 1
        self._confirmed_at, self._renewed_at = asked_at, now
        return True

    def _is_recent(self, monotonic: float, now: float) -> bool:
        """By both clocks: others go by the one that may be set."""
        return monotonic - self._confirmed_at < _RENEW_AFTER and 0 <= now - self._renewed_at < _RENEW_AFTER

    def renew(self) -> bool:
        """Prolong it; False if it is not ours any more."""
        asked_at, now = self._monotonic(), self._store.now()
        with self._store.database.write_lease() as connection:
            values = {"expires_at": now + LEASE_TTL}
            done = connection.execute(update(leases).where(self._mine()).values(**values))
        self._confirmed_at, self._renewed_at = (asked_at, now) if done.rowcount else (float("-inf"), float("-inf"))
        return bool(done.rowcount)

    def release(self) -> None:
        """Give it back if it is still ours."""
        self._confirmed_at = float("-inf")
        with self._store.database.write_lease() as connection:
            connection.execute(delete(leases).where(self._mine()))

    def is_ours(self) -> bool:
        """As the store says. One that has run out but that nobody has taken is ours still. Raises StoreError."""
        with self._store.database.read() as connection:
            return connection.execute(select(leases.c.name).where(self._mine())).first() is not None

    def is_ours_in(self, connection: Connection) -> bool:
        """The same in a transaction that writes: it stays so until the transaction ends."""
        query = select(leases.c.name).where(self._mine()).with_for_update()
        return connection.execute(query).first() is not None

    def is_fresh(self) -> bool:
        """The store said not long ago that it is ours, and nobody could take it since."""
        return self._monotonic() - self._confirmed_at < _FRESH

    def _mine(self) -> ColumnElement[bool]:
        return (leases.c.name == self._name) & (leases.c.holder == self._holder)

    def find_other_holder(self) -> str | None:
        """Who else holds it and may be alive."""
        found = self._store.find_lease_holder(self._name)
        if found is None or found[0] == self._holder or found[1] <= self._store.now():
            return None
        return found[0] if _may_live(found[0]) and not self._is_stale(*found) else None

    def _may_hold(self, row: Any) -> bool:
        return _may_live(row.holder) and not self._is_stale(row.holder, row.expires_at)

    def _is_stale(self, holder: str, expires_at: float) -> bool:
        """Not renewed for the length of a lease, by a clock that nobody sets: the other clock may have been set
        back since, and the lease seem to be good for a day."""
        now = self._monotonic()
        if self._seen != (holder, expires_at):
            self._seen, self._seen_at = (holder, expires_at), now
        return now - self._seen_at > LEASE_TTL


def _may_live(holder: str) -> bool:
    """False only if the holder is a process of this machine that is known to be gone."""
    host, _, rest = holder.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot (proc(5), field 22): a reused pid differs in it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "gone"
    return stat.rpartition(")")[2].split()[19]
