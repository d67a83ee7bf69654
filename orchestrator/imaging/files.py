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
from typing import IO

from orchestrator.errors import HostFull, ImageRefused, SpecError, UnderstudyError

OnProgress = Callable[[float, str], None]
"""Percent, what is being done: words up to the first comma name the stage."""
OnBytes = Callable[[int, int], None]
"""Bytes that are done, of how many."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
_CHUNK = 2**20  # bytes that are read at once
MIB = 2**20
PIECE = 64 * MIB  # bytes that the kernel is asked to copy at once


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


def sha256_of(file: Path, on_bytes: OnBytes = lambda done, size: None) -> str:
    """Raises OSError."""
    digest, done, size = hashlib.sha256(), 0, file.stat().st_size
    buffer = bytearray(_CHUNK)
    with file.open("rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            done += count
            on_bytes(done, size)
    return digest.hexdigest()


def check_sum(found: str, sha256: str, shown: str, fix: str) -> None:
    """Raises ImageRefused with both checksums if `found`, that of the file called `shown`, is not `sha256`."""
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


def allocated(file: Path) -> int:
    """Bytes that it takes on disk, which are less than its size if it has holes."""
    return file.stat().st_blocks * 512


def told(on_progress: OnProgress, words: str) -> OnBytes:
    """Tells each MiB, and the end, as a percentage of the whole."""
    shown_at = -1

    def tell(done: int, size: int) -> None:
        nonlocal shown_at
        if done // MIB != shown_at or done == size:
            shown_at = done // MIB
            on_progress(
                100 * min(done / size, 1.0) if size else 0.0, f"{words}, {done // MIB} of {size // MIB} MiB"
            )

    return tell


def part_of(on_progress: OnProgress, first: float, last: float) -> OnProgress:
    """Tells a part of the work as what it is of the whole: from `first` to `last` percent."""
    return lambda percent, words: on_progress(first + (last - first) * percent / 100, words)


# ---- copies ----------------------------------------------------------------------------------------------


def link_or_copy(source: Path, target: Path, on_bytes: OnBytes = lambda done, size: None) -> None:
    """Another name of the file; a copy of it where the two are on different file systems. Raises OSError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy_file(source, target, on_bytes)


def copy_file(source: Path, target: Path, on_bytes: OnBytes = lambda done, size: None) -> None:
    """A whole copy, on disk. Raises OSError."""
    with source.open("rb") as reading, target.open("wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        for done, _ in copied_pieces(reading, writing, 0):
            on_bytes(done, size)
        os.fsync(writing.fileno())


def copied_pieces(reading: IO[bytes], writing: IO[bytes], start: int) -> Iterator[tuple[int, int]]:
    """Copies from byte `start` on; yields, after each piece, how long the copy is now, and how many bytes of that
    were written. Holes stay holes.

    The copy shares its blocks with the original where the file system can do that. Raises OSError.
    """
    source, target = reading.fileno(), writing.fileno()
    os.ftruncate(target, start)
    done, size = start, os.fstat(source).st_size
    while done < size:
        begin, end = _next_data(source, done, size)
        if begin > done:
            os.ftruncate(target, begin)
        count = _copy_some(source, target, begin, min(end - begin, PIECE))
        if not count and begin == done:
            return  # it became shorter meanwhile
        done = begin + count
        yield done, count
    while count := _copy_some(source, target, done, PIECE):  # of some files the size is not known
        done += count
        yield done, count


def _next_data(source: int, offset: int, size: int) -> tuple[int, int]:
    """(begin, end) of the next bytes that are no hole; all is data where the file system knows of no holes."""
    try:
        begin = os.lseek(source, offset, os.SEEK_DATA)
        return begin, min(os.lseek(source, begin, os.SEEK_HOLE), size)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (offset, size)


def _copy_some(source: int, target: int, offset: int, count: int) -> int:
    """How many bytes were copied; 0 only at the end of the file."""
    if not count:
        return 0
    # What the kernel does not copy, for whatever reason, is read and written; a real fault shows there again.
    with contextlib.suppress(OSError):
        if done := os.copy_file_range(source, target, count, offset, offset):
            return done
    content = memoryview(os.pread(source, min(count, _CHUNK), offset))
    written = 0
    while written < len(content):
        written += os.pwrite(target, content[written:], offset + written)
    return written
