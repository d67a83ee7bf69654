"""The controller lease: at most one process converges at a time.

The holder renews it well before it expires; a dead holder on this machine is noticed at once, one elsewhere
when the lease runs out.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sqlalchemy import delete, insert, select, update

from orchestrator.store.store import Store
from orchestrator.store.tables import leases

LEASE_TTL = 10.0  # seconds


class Lease:
    """One process's claim to be the controller."""

    def __init__(self, store: Store, name: str = "controller", holder: str | None = None) -> None:
        self._store = store
        self._name = name
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"

    def take(self) -> bool:
        """Take or renew; False while somebody else who lives holds it. Raises StoreError."""
        now = self._store.now()
        with self._store.database.write() as connection:
            row = connection.execute(select(leases).where(leases.c.name == self._name)).first()
            values = {"holder": self._holder, "expires_at": now + LEASE_TTL}
            if row is None:
                connection.execute(insert(leases).values(name=self._name, **values))
                return True
            if row.holder != self._holder and row.expires_at > now and _may_live(row.holder):
                return False
            connection.execute(update(leases).where(leases.c.name == self._name).values(**values))
            return True

    def renew(self) -> bool:
        """Prolong it; False if it is not ours any more."""
        mine = (leases.c.name == self._name) & (leases.c.holder == self._holder)
        with self._store.database.write() as connection:
            done = connection.execute(update(leases).where(mine).values(expires_at=self._store.now() + LEASE_TTL))
        return bool(done.rowcount)

    def release(self) -> None:
        """Give it back if it is still ours."""
        mine = (leases.c.name == self._name) & (leases.c.holder == self._holder)
        with self._store.database.write() as connection:
            connection.execute(delete(leases).where(mine))

    def find_other_holder(self) -> str | None:
        """Who else holds it and may be alive."""
        found = self._store.find_lease_holder(self._name)
        if found is None or found[0] == self._holder or found[1] <= self._store.now():
            return None
        return found[0] if _may_live(found[0]) else None


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
