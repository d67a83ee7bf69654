"""A file of the operator's, copied: taken up where it was left, unless the file has changed since.

How far the copy has come is written down after each piece, once the piece is on disk: what a killed command left
is believed that far, and no further.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from orchestrator.drivers.qemu_img import is_qcow2
from orchestrator.errors import HostFull, ImageRefused
from orchestrator.imaging.files import (
    PIECE,
    OnProgress,
    allocated,
    check_room,
    check_sum,
    copied_pieces,
    is_full,
    part_of,
    told,
)
from orchestrator.imaging.stages import Stage

_COPIED = "copied"  # in the origin: bytes that are on disk


@contextlib.contextmanager
def copied(file: Path, sha256: str, work: Path, on_progress: OnProgress) -> Iterator[Stage]:
    """A stage with the file, which has the checksum `sha256` if one is given; gone at the end.

    What is inspected and imported is one and the same file, whatever happens to the original meanwhile. A refusal
    and a full disk leave nothing; after an interruption what there is is kept. Raises ImageRefused, HostFull, and
    Conflict while another command is at the same file.
    """
    with _opened(file) as reading:
        stage = Stage(work, sha256.lower() or _key(file))
        with stage.locked("adding the same file"):
            try:
                share = 70 if sha256 else 100
                with _read_errors(file):
                    _bring(stage, reading, file, part_of(on_progress, 0, share))
                if sha256:
                    tell = told(part_of(on_progress, share, 100), "checking what was copied")
                    check_sum(stage.sha256_of(stage.disk, tell), sha256, str(file), "copy it again")
                yield stage
            except (ImageRefused, HostFull, OSError) as error:
                if not isinstance(error, OSError) or is_full(error):
                    stage.remove()
                raise
            stage.remove()


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        with _read_errors(file):
            if not file.is_file():
                raise ImageRefused(f"{file} is not a file" if file.exists() else f"there is no file {file}")
            reading = stack.enter_context(file.open("rb"))
        yield reading


@contextlib.contextmanager
def _read_errors(file: Path) -> Iterator[None]:
    """Raises ImageRefused in place of OSError, unless there is no room."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        raise ImageRefused(f"cannot read image {file}: {error.strerror}") from error


def _key(file: Path) -> str:
    """A file is known by its place; `_describe` tells whether it is still the same."""
    return hashlib.sha256(b"file\0" + os.fsencode(file.resolve())).hexdigest()


def _describe(reading: IO[bytes], file: Path) -> dict[str, Any]:
    """Another one after any change."""
    found = os.fstat(reading.fileno())
    return {
        "path": str(file.resolve()),
        "inode": found.st_ino,
        "size": found.st_size,
        "written": found.st_mtime_ns,
        "changed": found.st_ctime_ns,
    }


def _bring(stage: Stage, reading: IO[bytes], file: Path, on_progress: OnProgress) -> None:
    """Afterwards there is the stage's disk.

    Raises OSError, HostFull, and ImageRefused if the file changes meanwhile.
    """
    here, origin = _describe(reading, file), stage.read_origin()
    known = origin.pop(_COPIED, 0)
    if origin != here or not (stage.disk.exists() or stage.partial.exists()):
        known = 0
        stage.start_over()
        stage.write_origin({**here, _COPIED: 0})
    if stage.disk.exists():
        return
    start = _verified(reading, stage.partial, known)
    missing = max(room_needed(file) - allocated(stage.partial), 0)
    check_room(stage.partial.parent, missing, f"importing {file}")
    _copy(stage, reading, here, start, on_progress)
    if _describe(reading, file) != here:
        raise ImageRefused(
            f"{file} was changed while it was copied",
            "wait until nobody writes to it, then give the command again",
        )
    stage.finish(stage.partial, stage.disk)


def room_needed(file: Path) -> int:
    """Bytes that its import takes: the copy has the file's holes; of another format it is converted, which may
    take as much once more. Raises OSError."""
    return allocated(file) * (1 if is_qcow2(file) else 2)


def _verified(reading: IO[bytes], partial: Path, known: int) -> int:
    """From which byte on it is copied: from `known` if the piece before it is what it should be, else from 0."""
    length = min(known, PIECE)
    with partial.open("rb") as copy:
        there = os.pread(copy.fileno(), length, known - length)
    return known if there == os.pread(reading.fileno(), length, known - length) else 0


def _copy(stage: Stage, reading: IO[bytes], here: dict[str, Any], start: int, on_progress: OnProgress) -> None:
    tell = told(on_progress, f"copying {Path(here['path']).name}")
    tell(start, here["size"])
    unsafe = 0  # bytes of which nobody knows whether they are on disk
    with stage.partial.open("r+b") as writing:
        for done, count in copied_pieces(reading, writing, start):
            tell(done, here["size"])
            unsafe += count
            if unsafe >= PIECE:
                os.fdatasync(writing.fileno())
                stage.write_origin({**here, _COPIED: done})
                unsafe = 0
