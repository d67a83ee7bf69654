"""A file from the web: taken up where it was left, from any mirror, and trusted for its checksum only.

In the work directory, named by the checksum: `.partial` while it is under way, `.origin` (what the server said of
it), `.disk` once it is whole and verified, `.lock` while a command is at it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.drivers.http_download import Answer, Known, WebAddress, open_file, parse_address
from orchestrator.errors import Conflict, DownloadCut, DownloadFailed, HostFull, ImageRefused, SpecError
from orchestrator.imaging.files import OnProgress, check_content, check_room, check_sha256

_STALE = 7 * 86400.0  # seconds after which nobody goes on with a download
_HEADWAY = 2**20  # bytes that make an attempt no failure
_NAME = re.compile(r"([0-9a-f]{64})\.(partial|disk|origin|lock)")


@dataclass(frozen=True)
class Download:
    """A file wanted from the web; `sha256` is in lower case."""

    address: WebAddress
    sha256: str


@dataclass(frozen=True)
class DownloadLimits:
    """`timeout`: seconds a server may be silent. `tries`: requests without headway before it is given up.

    `pause`: seconds after the first failure, doubling with each further one. `spare_room`: bytes left free.
    """

    timeout: float = 30.0
    tries: int = 6
    pause: float = 1.0
    spare_room: int = 2**29


USUAL = DownloadLimits()


@dataclass(frozen=True)
class _Origin:
    """What the last server said: `total` is the whole file's size in bytes."""

    shown: str = ""
    validator: str = ""
    total: int | None = None


def parse_download(url: str, sha256: str) -> Download:
    """Raises SpecError."""
    address = parse_address(url)
    if not sha256:
        raise SpecError(
            f"{address.shown} cannot be trusted without a checksum",
            "add --sha256 HEX, the 64 digits that the image's publisher gives for it",
        )
    check_sha256(sha256)
    return Download(address, sha256.lower())


@contextlib.contextmanager
def downloaded(
    download: Download, work: Path, on_progress: OnProgress, limits: DownloadLimits = USUAL
) -> Iterator[Path]:
    """The file, verified; gone at the end, or if it is refused. After any other failure what there is is kept.

    Raises DownloadFailed, HostFull, ImageRefused, and Conflict while another command is at the same file.
    """
    files = _Files(work, download.sha256)
    with files.locked():
        if not _is_verified(files, download):
            _fetch(files, download, on_progress, limits)
            on_progress(99, "computing the checksum of the download")
            _verify(files, files.partial, download)
            files.partial.replace(files.disk)
        try:
            yield files.disk
        except ImageRefused:
            files.remove()
            raise
        files.remove()


def prune_downloads(work: Path, now: float) -> tuple[int, int]:
    """Remove the downloads nobody went on with for a week: (how many, bytes). `now`: seconds since the epoch."""
    count = size = 0
    for digest in sorted({match[1] for file in work.iterdir() if (match := _NAME.fullmatch(file.name))}):
        files = _Files(work, digest)
        with contextlib.suppress(Conflict), files.locked():
            if 0 < files.last_written() < now - _STALE:
                size += files.size(files.partial) + files.size(files.disk)
                count += 1
                files.remove()
    return count, size


class _Files:
    """The files of one download."""

    def __init__(self, work: Path, sha256: str) -> None:
        self.partial = work / f"{sha256}.partial"
        self.disk = work / f"{sha256}.disk"
        self._origin = work / f"{sha256}.origin"
        self._lock = work / f"{sha256}.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Raises Conflict if another process is at it."""
        with contextlib.ExitStack() as stack:
            while True:
                lock = stack.enter_context(self._lock.open("a"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Conflict(
                        "another command is downloading the same image",
                        "wait for its end, then give the command again",
                    ) from None
                # Whoever had it may have removed the file meanwhile: a lock on that one keeps nobody out.
                with contextlib.suppress(FileNotFoundError):
                    if self._lock.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                        break
            stack.callback(self._lock.unlink, missing_ok=True)
            yield

    def size(self, file: Path) -> int:
        return file.stat().st_size if file.exists() else 0

    def last_written(self) -> float:
        """Seconds since the epoch; 0 if there is nothing."""
        files = (self.partial, self.disk, self._origin)
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

    def origin(self) -> _Origin:
        """Nothing is known of what cannot be read."""
        try:
            return _Origin(**json.loads(self._origin.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return _Origin()

    def write_origin(self, origin: _Origin) -> None:
        self._origin.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def start_over(self) -> None:
        """The content goes before what is known of it, so that the two never belong to different files."""
        self.partial.unlink(missing_ok=True)
        self.partial.touch(mode=0o600)
        self._origin.unlink(missing_ok=True)

    def remove(self) -> None:
        for file in (self.partial, self.disk, self._origin):
            file.unlink(missing_ok=True)


def _is_verified(files: _Files, download: Download) -> bool:
    """An earlier command had downloaded all of it. What has changed since is thrown away."""
    if not files.disk.exists():
        return False
    with contextlib.suppress(ImageRefused):
        _verify(files, files.disk, download)
        return True
    return False


def _verify(files: _Files, file: Path, download: Download) -> None:
    """Raises ImageRefused, and then nothing is left."""
    fix = "compare the checksum with the publisher's; the same command begins anew"
    try:
        check_content(file, download.sha256, download.address.shown, fix)
    except ImageRefused:
        files.remove()
        raise


def _fetch(files: _Files, download: Download, on_progress: OnProgress, limits: DownloadLimits) -> None:
    """Until the partial file is whole. Failures count as long as there is no headway."""
    furthest, failures = files.size(files.partial), 0
    while True:
        try:
            _go_on(files, download, on_progress, limits)
            return
        except DownloadCut as error:
            size = files.size(files.partial)
            failures = 1 if size >= furthest + _HEADWAY else failures + 1
            furthest = max(furthest, size)
            if failures >= limits.tries:
                raise DownloadFailed(
                    f"{error.message} ({failures} times in a row)",
                    "what arrived is kept, the same command goes on there; or give another mirror's URL",
                ) from error
            pause = limits.pause * 2 ** (failures - 1)
            percent = _percent(size, files.origin().total)
            on_progress(percent, f"{error.message}; trying again in {pause:g} s")
            time.sleep(pause)


def _go_on(files: _Files, download: Download, on_progress: OnProgress, limits: DownloadLimits) -> None:
    """One request for what is missing; if that cannot be had, one for the whole file. Raises DownloadFailed."""
    size, origin = files.size(files.partial), files.origin()
    if size and size == origin.total:
        return
    known = Known(size, origin.shown, origin.validator)
    with open_file(download.address, known, limits.timeout) as answer:
        if _continues(answer, size, origin):
            _receive(files, answer, origin, on_progress, limits)
            return
    if not size:
        raise DownloadFailed(f"{download.address.shown} sends a part that was not asked for", "use another mirror")
    files.start_over()
    _go_on(files, download, on_progress, limits)


def _continues(answer: Answer, size: int, origin: _Origin) -> bool:
    """Whether the answer may be written: the whole file, or the rest of what looks like the same one."""
    if answer.start == 0:
        return True
    same_size = origin.total is None or answer.total in (None, origin.total)
    other_content = origin.shown == answer.shown and answer.validator not in ("", origin.validator)
    return answer.start == size and same_size and not (origin.validator and other_content)


def _receive(
    files: _Files, answer: Answer, origin: _Origin, on_progress: OnProgress, limits: DownloadLimits
) -> None:
    """Append what comes while there is room. Raises DownloadCut if it is not all, DownloadFailed, HostFull."""
    size, total = answer.start, answer.total
    if answer.start:
        total = total if total is not None else origin.total
    if total is not None:
        # A disk of another format is converted: it may need its size once more.
        needed = total - size + max(total, limits.spare_room)
        check_room(files.partial.parent, needed, f"downloading {answer.shown}")
    validator = answer.validator or _kept_validator(answer, origin)
    shown_at = -1
    try:
        if not answer.start:
            files.start_over()
        files.write_origin(_Origin(answer.shown, validator, total))
        with files.partial.open("ab") as partial:
            for chunk in answer.chunks:
                size += len(chunk)
                _check_bounds(files, answer.shown, size, total, limits.spare_room)
                partial.write(chunk)
                if size // 2**20 != shown_at:
                    shown_at = size // 2**20
                    on_progress(_percent(size, total), _words(size, total))
    except OSError as error:
        raise HostFull(
            f"cannot write {files.partial}: {error.strerror}", "free space, or give another --state-dir"
        ) from error
    if total is not None and size < total:
        raise DownloadCut(f"{answer.shown} ended after {size // 2**20} of {total // 2**20} MiB")


def _kept_validator(answer: Answer, origin: _Origin) -> str:
    return origin.validator if answer.start and origin.shown == answer.shown else ""


def _check_bounds(files: _Files, shown: str, size: int, total: int | None, spare_room: int) -> None:
    """Raises DownloadFailed or HostFull; what may have no end is not kept."""
    if total is not None and size > total:
        files.remove()
        raise DownloadFailed(f"{shown} sends more than the {total} bytes it announced", "use another mirror")
    directory = files.partial.parent
    free = shutil.disk_usage(directory).free
    if free < spare_room:
        if total is None:
            files.remove()
        raise HostFull(
            f"downloading {shown} stopped after {size // 2**20} MiB: {directory} has {free // 2**20} MiB free",
            "free space, or give another --state-dir",
        )


def _percent(size: int, total: int | None) -> float:
    return min(size / total, 1.0) * 99 if total else 0.0


def _words(size: int, total: int | None) -> str:
    whole = f" of {total / 2**20:.0f}" if total is not None else ""
    return f"downloading, {size / 2**20:.0f}{whole} MiB"
