"""The fence between what a controller decided and what it does.

A controller may be held up at any instruction for longer than its lease (stopped, swapped out, its machine
suspended), and another one then works with the same store. So the lease is looked at again before each effect and
in the transaction of each record, and what was decided under an earlier term is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from orchestrator.errors import LeaseLost, StoreError
from orchestrator.store.lease import Lease

log = logging.getLogger("understudy.fence")


class Fence:
    """Thread-safe. Each thread says with `acting` under which term of the lease it decided."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._decided = threading.local()

    @contextmanager
    def acting(self, term: int) -> Iterator[None]:
        """What this thread does in the block was decided under that term."""
        before = self._term()
        self._decided.term = term
        try:
            yield
        finally:
            self._decided.term = before

    def check(self) -> None:
        """Before an effect. Raises LeaseLost, also where the store does not answer: nobody can tell then."""
        self._refuse_unless(self._is_of_this_term() and self._is_ours())

    def check_in(self, connection: Connection) -> None:
        """In the transaction of a record: until it ends, nobody else can take the lease. Raises LeaseLost."""
        self._refuse_unless(self._is_of_this_term() and self._lease.is_ours_in(connection))

    def holds(self) -> bool:
        """The same as an answer, for those who ask often: while the lease was renewed just now, the store is not
        asked."""
        return self._is_of_this_term() and (self._lease.is_fresh() or self._is_ours())

    def _is_ours(self) -> bool:
        try:
            return self._lease.is_ours()
        except StoreError as error:
            log.warning("cannot tell whether this process is still the controller: %s", error.message)
            return False

    def _is_of_this_term(self) -> bool:
        return self._term() in (None, self._lease.term)

    def _term(self) -> int | None:
        return getattr(self._decided, "term", None)

    def _refuse_unless(self, holds: bool) -> None:
        if not holds:
            raise LeaseLost("this process is not the controller any more", "another one goes on with the work")
