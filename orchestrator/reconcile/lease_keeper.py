"""The lease of the controller, kept while it acts. Without it, what is under way is given up."""

from __future__ import annotations

import logging
import threading

from orchestrator.errors import UnderstudyError
from orchestrator.reconcile.workers import Workers
from orchestrator.store import Lease
from orchestrator.store.lease import LEASE_TTL

log = logging.getLogger("understudy.controller")


class LeaseKeeper:
    """Thread-safe: `keep` runs beside the loop."""

    def __init__(self, lease: Lease, workers: Workers) -> None:
        self._lease = lease
        self._workers = workers

    def take(self) -> bool:
        """Taken anew, it gives no right to go on with what was begun before it was lost. Raises StoreError."""
        before = self._lease.term
        has_it = self._lease.take()
        if not has_it or self._lease.term != before:
            self._give_way()
        return has_it

    def keep(self, stopping: threading.Event) -> None:
        """Until `stopping`: a turn that a slow host holds up must not cost the lease while effects go on."""
        while not stopping.wait(LEASE_TTL / 3):
            try:
                if not self._lease.renew():
                    self._give_way()
            except UnderstudyError as error:
                log.error("cannot renew the controller lease: %s", error)

    def release(self) -> None:
        try:
            self._lease.release()
        except UnderstudyError as error:
            log.error("cannot release the controller lease: %s", error)

    def _give_way(self) -> None:
        """Another process is or was the controller: what this one has under way is not its own any more."""
        count = self._workers.interrupt_all()
        if count:
            log.warning("the controller lease was lost; giving up what is under way: %d", count)
