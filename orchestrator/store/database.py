"""Connections. Reads never wait for writers (WAL); writes take the lock at once, so none is lost half way."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from orchestrator.errors import StoreError, StoreLost
from orchestrator.store.change_watch import ChangeWatch, Version
from orchestrator.store.migrations import MIGRATIONS
from orchestrator.store.tables import SCHEMA_VERSION, facts, leases, metadata

RECOVERY = (
    "put a backup back: understudy restore FILE --force; or, without one, move away what is left of the store and "
    "rebuild it: understudy adopt"
)
# What SQLite calls a file that is not, or no longer, a database.
_DAMAGED = ("malformed", "not a database", "file is encrypted")


class Database:
    """One engine and its two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self._engine = _open_engine(url)
        self._file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
        self._inode = 0
        self._writer = self._engine.execution_options(understudy_writes=True)
        self._watch = ChangeWatch(self._writer) if self._file is not None else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot. Raises StoreError."""
        self._refuse_another_file()
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All or nothing. Raises StoreError."""
        self._refuse_another_file()
        with self._translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def write_lease(self) -> Iterator[Connection]:
        """The same for what `version` need not tell: leases and nothing else."""
        if self._watch is None:
            with self.write() as connection:
                yield connection
            return
        self._refuse_another_file()
        with self._translated(), self._watch.write() as connection:
            yield connection

    def version(self) -> Version | None:
        """Equal to one of before only if nobody, in whatever process, has written anything but leases since; None
        where only reading tells. Raises StoreLost."""
        self._refuse_another_file()
        return self._watch.version() if self._watch is not None else None

    def ensure_schema(self, now: float) -> None:
        """Make the tables, or bring those of an older version up to date.

        Raises StoreError if a newer Understudy wrote this store, or an older one is at work on it.
        """
        with self._translated():
            with self._engine.begin() as connection:
                found = self._schema_version(connection)
            self._inode = self._file.stat().st_ino if self._file is not None else 0
            if found == SCHEMA_VERSION:
                return
            if found is not None and found > SCHEMA_VERSION:
                raise StoreError(
                    f"the store has schema version {found}, this Understudy knows {SCHEMA_VERSION}",
                    "run the version of Understudy that wrote it, or a newer one",
                )
            with self._writer.begin() as connection:
                found = self._schema_version(connection)
                if found is None:
                    metadata.create_all(connection)
                    connection.execute(insert(facts).values(key="schema_version", value=str(SCHEMA_VERSION)))
                else:
                    self._refuse_under_a_controller(connection, now)
                    self._migrate(connection, found)

    def _schema_version(self, connection: Connection) -> int | None:
        if not self._engine.dialect.has_table(connection, "facts"):
            return None
        row = connection.execute(select(facts.c.value).where(facts.c.key == "schema_version")).first()
        return int(row[0]) if row else None

    def _refuse_under_a_controller(self, connection: Connection, now: float) -> None:
        """It knows the tables as they were."""
        holder = connection.execute(select(leases.c.holder).where(leases.c.expires_at > now)).first()
        if holder is not None:
            raise StoreError(
                f"an older Understudy ({holder[0]}) works with this store, which has to be brought up to date",
                "end 'understudy serve' (or wait for the command that runs), then try again",
            )

    def _migrate(self, connection: Connection, found: int) -> None:
        """All steps in one transaction: a store is of one version or of the other."""
        for version in range(found, SCHEMA_VERSION):
            for statement in MIGRATIONS[version]:
                connection.exec_driver_sql(statement)
        newest = update(facts).where(facts.c.key == "schema_version").values(value=str(SCHEMA_VERSION))
        connection.execute(newest)

    @property
    def file(self) -> Path | None:
        """None if it is no SQLite file."""
        return self._file

    def copy_into(self, target: sqlite3.Connection) -> None:
        """All pages as of one moment, by SQLite's online backup. Raises StoreError."""
        self._refuse_another_file()
        with self._translated(), contextlib.closing(self._engine.raw_connection()) as connection:
            assert isinstance(connection.driver_connection, sqlite3.Connection)
            connection.driver_connection.backup(target)

    def _refuse_another_file(self) -> None:
        """SQLite would go on with a file that was taken away, while all others work with the one in its place."""
        if self._file is None:
            return
        try:
            found = self._file.stat().st_ino
        except OSError as error:
            raise StoreLost(f"the store {self._file} is gone: {error.strerror}", RECOVERY) from error
        if found != self._inode:
            raise StoreLost(
                f"the store {self._file} was replaced while this process used it", "start the command again"
            )

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            if self._file is not None and any(words in str(error.orig) for words in _DAMAGED):
                raise StoreError(f"the store {self._file} is damaged: {error.orig}", RECOVERY) from error
            if not isinstance(error, OperationalError):
                raise StoreError(f"the store failed: {error.orig}") from error
            raise StoreError(
                f"cannot use the store: {error.orig}",
                "check the disk space and rights of the state directory",
            ) from error
        except SQLAlchemyError as error:
            raise StoreError(f"the store failed: {error}") from error


def _open_engine(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True)  # user data among them is nothing for a log
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling begins too late; ours begins in `_begin_sqlite`.
    connection.isolation_level = None
    # FULL: that a machine is admitted must outlive a power failure, as the machine does.
    for pragma in ("busy_timeout = 15000", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("understudy_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
