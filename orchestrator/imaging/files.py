"""What copying, importing and downloading of image files share: checksums, room, copies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import HostFull, ImageRefused, SpecError, UnderstudyError

OnProgress = Callable[[float, str], None]
"""Percent, what is being done."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PIECE = 64 * 2**20  # bytes that the kernel is asked to copy at once


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Raises HostFull or UnderstudyError in place of OSError. `what`: such as "adding disk.raw"."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        words = f"{what} failed: {error.strerror or error}{where}"
        if is_full(error):
            raise HostFull(words, "free space, or give another --state-dir") from error
        raise UnderstudyError(words, "check the rights and the file system of the state directory") from error


def is_full(error: OSError) -> bool:
    """The file system has no room for it, or takes no file of that size."""
    return error.errno in _FULL


def check_sha256(sha256: str) -> None:
    """Raises SpecError unless it is empty or 64 hex digits."""
    if sha256 and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) is None:
        raise SpecError(f"{sha256!r} is no sha256", "give the 64 hex digits that sha256sum prints")


def sha256_of(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_content(file: Path, sha256: str, shown: str, fix: str) -> None:
    """Raises ImageRefused with both checksums if the file, called `shown`, has another than `sha256`."""
    found = sha256_of(file)
    if found != sha256.lower():
        raise ImageRefused(f"{shown} is not what was meant: its sha256 is {found}, not {sha256.lower()}", fix)


def check_room(directory: Path, needed: int, what: str) -> None:
    """Raises HostFull unless `needed` bytes are free. `what`: such as "importing disk.raw"."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise HostFull(
            f"{what} needs {needed // 2**20} MiB, {directory} has {free // 2**20} MiB free",
            "free space, or give another --state-dir",
        )


def move_file(source: Path, target: Path) -> None:
    """With its mode; copied where the two are on different file systems. Raises OSError."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_file(source, target)
        shutil.copymode(source, target)


def copy_file(source: Path, target: Path) -> None:
    """A copy; it shares its blocks with `source` where the file system can do that. Raises OSError."""
    with source.open("rb") as reading, target.open("wb") as writing:
        # What the kernel does not copy, for whatever reason, is read and written; a real fault shows there again.
        with contextlib.suppress(OSError):
            while os.copy_file_range(reading.fileno(), writing.fileno(), _PIECE):
                pass
        shutil.copyfileobj(reading, writing, 2**20)
