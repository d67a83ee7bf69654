"""Copies of an SQLite store: made while others write, checked, and put back."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.store import HOLD, Store
from orchestrator.store.tables import SCHEMA_VERSION

_PARTS = ("", "-wal", "-shm")


def copy_store(store: Store, target: Path) -> None:
    """All that was committed at one moment, as a new 0600 file. Raises StoreError.

    Reads nothing but pages under one read lock: writers go on.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            store.database.copy_into(copy)
            # One file, without a log of its own beside it.
            copy.execute("PRAGMA journal_mode = DELETE").close()
    except sqlite3.Error as error:
        raise StoreError(f"cannot copy the store: {error}", "check the disk space") from error


def check_copy(file: Path) -> int:
    """The schema version of a store's copy. Raises StoreError if it is damaged, no store, or a newer version's."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as copy:
            answer = [str(row[0]) for row in copy.execute("PRAGMA integrity_check")]
            row = copy.execute("SELECT value FROM facts WHERE key = 'schema_version'").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"the copy of the store is damaged: {error}", "use another backup") from error
    if answer != ["ok"] or row is None or not str(row[0]).isdigit():
        raise StoreError(f"the copy of the store is damaged: {'; '.join(answer)}", "use another backup")
    if int(row[0]) > SCHEMA_VERSION:
        raise StoreError(
            f"the store has schema version {row[0]}, this Understudy knows {SCHEMA_VERSION}",
            "run the version of Understudy that wrote it, or a newer one",
        )
    return int(row[0])


def put_back(copy: Path, file: Path, hold: str, aside: str) -> None:
    """`copy` becomes the store `file`, held until `adopt`; what is there now is kept as `file.aside`.

    Raises StoreError. Nobody may have the store open.
    """
    try:
        with contextlib.closing(sqlite3.connect(copy)) as made:
            made.execute("DELETE FROM leases")
            made.execute("DELETE FROM facts WHERE key = ?", (HOLD,))
            made.execute("INSERT INTO facts (key, value) VALUES (?, ?)", (HOLD, json.dumps(hold)))
            made.commit()
        copy.chmod(0o600)
        with copy.open("rb") as handle:
            os.fsync(handle.fileno())
        for part in _PARTS:
            # A log of the old store beside the new one would be played into it.
            old = file.with_name(file.name + part)
            if old.exists():
                old.rename(file.with_name(f"{file.name}.{aside}{part}"))
        copy.rename(file)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"cannot put the store {file} back: {error}", "check the disk space and rights"
        ) from error
