"""Scratch directories of commands. A lock tells one that is worked in from one that a killed command left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIXES = ("import-", "build-", "recipe-", "preview-", "ssh-", "backup-", "restore-")


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
    """Nobody works in it: neither who made it nor a tool that outlived it. One that was made a moment ago may not
    be locked yet: look twice."""
    return _is_unlocked(directory) and not _is_named_by_a_process(directory)


def find_mounts(directory: Path, mounts: str) -> list[str]:
    """Mount points below it, in the text of /proc/self/mounts: what is there is not the directory's own."""
    points = (line.split()[1].replace("\\040", " ") for line in mounts.splitlines() if line)
    return [point for point in points if point.startswith(f"{directory}/")]


def _is_named_by_a_process(directory: Path) -> bool:
    name = os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if name in (entry / "cmdline").read_bytes():
                    return True
    return False


def _is_unlocked(directory: Path) -> bool:
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
