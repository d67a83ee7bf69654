"""The installation's name, kept beside the store too: a store that was lost is known to be another one.

file    store        what it means
none    any          the first use: the store makes the name if it has none, then the file is written
there   the same     as always
there   none         the store is new and the installation is not: it was lost, and nothing is done before `adopt`
there   another      the store of another installation: refused
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store import Store

LOST = "the store is a new one, but the installation is not: its store was lost"


def ensure_identity(store: Store, file: Path) -> str:
    """The installation's name. Raises StoreError."""
    # The file first: it is written after the store's commit, so that a name in it was in the store before.
    kept = _read(file)
    if not kept:
        name = store.installation()
        _write(file, name)
        return name
    known = store.read_fact("installation")
    if known is None:
        store.begin_anew(kept, LOST)
    elif known != kept:
        raise StoreError(
            f"the store is that of installation {known}, and {file} says that this is {kept}",
            "give the state directory its own store back, or another --state-dir",
        )
    return kept


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        fix = "it holds the name of the installation, 16 hex digits"
        raise StoreError(f"cannot read {file}: {error}", fix) from error


def _write(file: Path, name: str) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(f"{name}\n")
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {file}: {error.strerror}", "check the state directory's rights") from error
