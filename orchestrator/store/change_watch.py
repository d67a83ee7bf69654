"""Whether anybody has written to a SQLite file since, told without reading a row.

`PRAGMA data_version` of a connection changes when another connection, of whatever process, has committed; its own
commits do not count. So one connection is kept for asking, and for the writes that are no news to anybody: the
lease, which is renewed with every look.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

Version = tuple[int, int]
"""(which connection said it, what it said): the numbers of two connections say nothing about each other."""


class ChangeWatch:
    """Thread-safe. `engine` is that of the file, with the options of a transaction that writes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._number = 0

    def version(self) -> Version | None:
        """Equal to one of before only if nobody has committed since, but by `write`. None if that cannot be told
        now: it never waits for a write."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._number, self._ask(self._get())
        except (SQLAlchemyError, sqlite3.Error):
            self._drop()  # what is wrong, a read will say
            return None
        finally:
            self._lock.release()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that does not count as a change. Not within another."""
        with self._lock:
            try:
                connection = self._get()
                with connection.begin():
                    yield connection
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _get(self) -> Connection:
        if self._connection is None:
            self._number += 1
            self._connection = self._engine.connect()
        return self._connection

    def _ask(self, connection: Connection) -> int:
        # Past SQLAlchemy, whose transaction around it would take longer than the question.
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        ((number,),) = driver.execute("PRAGMA data_version").fetchall()
        return int(number)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
