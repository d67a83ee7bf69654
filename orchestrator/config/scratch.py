"""Scratch directories of commands. A lock tells one that is worked in from one that a killed command left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIXES = ("import-", "build-", "recipe-", "preview-", "ssh-")


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A directory for the time of this block; `prefix` is one of PREFIXES."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as directory:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(directory)
        finally:
            os.close(descriptor)


def is_abandoned(directory: Path) -> bool:
    """Nobody works in it. One that was made a moment ago may not be locked yet: look twice."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
