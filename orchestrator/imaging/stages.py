"""What is kept of an image that is being added, so that the same command goes on where one was interrupted.

In the work directory, named by what identifies the source: `.partial` while it comes in, `.origin` (what is known
of the source), `.disk` once it is whole, `.converting` and then `.qcow2` where the disk has another format,
`.notes` (what was found out about these files), `.lock` while a command is at it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.config.rooms import write_kept
from orchestrator.errors import Conflict
from orchestrator.imaging.files import OnBytes, allocated, sha256_of

_STALE = 7 * 86400.0  # seconds after which nobody goes on with it
_UNWRITTEN = "unwritten"  # ends the name of a small file until it is whole
_CONTENT = ("qcow2", "converting", "disk", "partial")
_ABOUT = ("origin", "notes", _UNWRITTEN)
_NAME = re.compile(rf"([0-9a-f]{{64}})\.({'|'.join((*_CONTENT, *_ABOUT, 'lock'))})")


class Stage:
    """The files of one source. Whoever uses it has it locked, or a directory of its own.

    A file gets its finished name only when it is whole, and is on disk before that.
    """

    def __init__(self, work: Path, key: str) -> None:
        self._work = work
        self._key = key
        self.partial = self._file("partial")
        self.disk = self._file("disk")
        self.converting = self._file("converting")
        self.qcow2 = self._file("qcow2")
        self._origin = self._file("origin")
        self._notes = self._file("notes")
        self._lock = self._file("lock")

    def _file(self, suffix: str) -> Path:
        return self._work / f"{self._key}.{suffix}"

    @contextlib.contextmanager
    def locked(self, doing: str) -> Iterator[None]:
        """Raises Conflict if another process is at it. `doing`: such as "downloading the same image"."""
        with contextlib.ExitStack() as stack:
            while True:
                lock = stack.enter_context(self._lock.open("a"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Conflict(
                        f"another command is {doing}", "wait for its end, then give the command again"
                    ) from None
                # Whoever had it may have removed the file meanwhile: a lock on that one keeps nobody out.
                with contextlib.suppress(FileNotFoundError):
                    if self._lock.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                        break
            stack.callback(self._lock.unlink, missing_ok=True)
            yield

    # ---- content -----------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """What was made of the content goes before it, and it before what is known of it: no two files that are
        left ever belong to different sources."""
        self.remove()
        self.partial.touch(mode=0o600)

    def finish(self, unfinished: Path, finished: Path) -> None:
        """Raises OSError."""
        with unfinished.open("rb") as handle:
            os.fsync(handle.fileno())
        unfinished.replace(finished)

    def remove(self) -> None:
        for suffix in (*_CONTENT, *_ABOUT):
            self._file(suffix).unlink(missing_ok=True)

    def allocated(self) -> int:
        """Bytes on disk."""
        return sum(allocated(file) for file in map(self._file, _CONTENT) if file.exists())

    def last_written(self) -> float:
        """Seconds since the epoch; 0 if there is nothing."""
        files = [file for file in map(self._file, (*_CONTENT, *_ABOUT)) if file.exists()]
        return max((file.stat().st_mtime for file in files), default=0.0)

    # ---- what is known of it -----------------------------------------------------------------------------

    def read_origin(self) -> dict[str, Any]:
        """What was written of the source; nothing is known of what cannot be read."""
        return _read(self._origin)

    def write_origin(self, origin: dict[str, Any]) -> None:
        """Raises StoreError."""
        self._write(self._origin, origin)

    def note(self, file: Path, what: str, value: Any) -> None:
        """Remember something of one of the files, for as long as the file is the same. Raises StoreError."""
        notes, identity = _read(self._notes), _identity(file)
        known = notes.get(file.suffix, {})
        if known.get("file") != identity:
            known = {"file": identity}
        self._write(self._notes, {**notes, file.suffix: {**known, what: value}})

    def noted(self, file: Path, what: str) -> Any:
        """None if nothing is known."""
        known = _read(self._notes).get(file.suffix, {})
        return known.get(what) if file.exists() and known.get("file") == _identity(file) else None

    def sha256_of(self, file: Path, on_bytes: OnBytes = lambda done, size: None) -> str:
        """Computed once."""
        if known := self.noted(file, "sha256"):
            return str(known)
        digest = sha256_of(file, on_bytes)
        self.note_sha256(file, digest)
        return digest

    def note_sha256(self, file: Path, digest: str) -> None:
        """It was computed elsewhere. Raises StoreError."""
        self.note(file, "sha256", digest)

    def _write(self, file: Path, content: dict[str, Any]) -> None:
        write_kept(file, json.dumps(content).encode(), self._file(_UNWRITTEN).name)


def prune_stages(work: Path, now: float) -> tuple[int, int]:
    """Remove what nobody went on with for a week: (how many, bytes). `now`: seconds since the epoch."""
    count = size = 0
    for key in sorted({match[1] for file in work.iterdir() if (match := _NAME.fullmatch(file.name))}):
        stage = Stage(work, key)
        with contextlib.suppress(Conflict), stage.locked("adding it"):
            if 0 < stage.last_written() < now - _STALE:
                size += stage.allocated()
                count += 1
                stage.remove()
    return count, size


def _identity(file: Path) -> str:
    """Of a file that nobody else writes to."""
    found = file.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
