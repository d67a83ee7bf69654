"""A file from the web: taken up where it was left, from any mirror, and trusted for its checksum only.

The checksum names its stage (`stages`), whose origin is what the last server said of the file.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.drivers.http_download import Answer, Known, WebAddress, open_file, parse_address
from orchestrator.errors import DownloadCut, DownloadFailed, HostFull, ImageRefused, SpecError
from orchestrator.imaging.files import OnProgress, check_room, check_sha256, check_sum, part_of, sha256_of, told
from orchestrator.imaging.stages import Stage

_HEADWAY = 2**20  # bytes that make an attempt no failure


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
) -> Iterator[Stage]:
    """A stage with the file, verified; gone at the end, or if it is refused. After any other failure what there is
    is kept.

    Raises DownloadFailed, HostFull, ImageRefused, and Conflict while another command is at the same file.
    """
    stage = Stage(work, download.sha256)
    with stage.locked("downloading the same image"):
        if not _is_verified(stage, download):
            _fetch(stage, download, part_of(on_progress, 0, 90), limits)
            tell = told(part_of(on_progress, 90, 100), "computing the checksum of the download")
            tell(0, _size(stage.partial))
            _verify(stage, sha256_of(stage.partial, tell), download)
            stage.finish(stage.partial, stage.disk)
            stage.note_sha256(stage.disk, download.sha256)
        try:
            yield stage
        except ImageRefused:
            stage.remove()
            raise
        stage.remove()


def _is_verified(stage: Stage, download: Download) -> bool:
    """An earlier command had downloaded all of it. What has changed since is thrown away."""
    if not stage.disk.exists():
        return False
    with contextlib.suppress(ImageRefused):
        _verify(stage, stage.sha256_of(stage.disk), download)
        return True
    return False


def _verify(stage: Stage, found: str, download: Download) -> None:
    """Raises ImageRefused, and then nothing is left."""
    fix = "compare the checksum with the publisher's; the same command begins anew"
    try:
        check_sum(found, download.sha256, download.address.shown, fix)
    except ImageRefused:
        stage.remove()
        raise


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _origin(stage: Stage) -> _Origin:
    """Nothing is known of what is not a download's."""
    with contextlib.suppress(TypeError):
        return _Origin(**stage.read_origin())
    return _Origin()


def _fetch(stage: Stage, download: Download, on_progress: OnProgress, limits: DownloadLimits) -> None:
    """Until the partial file is whole. Failures count as long as there is no headway."""
    furthest, failures = _size(stage.partial), 0
    while True:
        try:
            _go_on(stage, download, on_progress, limits)
            return
        except DownloadCut as error:
            size = _size(stage.partial)
            failures = 1 if size >= furthest + _HEADWAY else failures + 1
            furthest = max(furthest, size)
            if failures >= limits.tries:
                raise DownloadFailed(
                    f"{error.message} ({failures} times in a row)",
                    "what arrived is kept, the same command goes on there; or give another mirror's URL",
                ) from error
            pause = limits.pause * 2 ** (failures - 1)
            percent = _percent(size, _origin(stage).total)
            on_progress(percent, f"{error.message}; trying again in {pause:g} s")
            time.sleep(pause)


def _go_on(stage: Stage, download: Download, on_progress: OnProgress, limits: DownloadLimits) -> None:
    """One request for what is missing; if that cannot be had, one for the whole file. Raises DownloadFailed."""
    size, origin = _size(stage.partial), _origin(stage)
    if size and size == origin.total:
        return
    known = Known(size, origin.shown, origin.validator)
    with open_file(download.address, known, limits.timeout) as answer:
        if _continues(answer, size, origin):
            _receive(stage, answer, origin, on_progress, limits)
            return
    if not size:
        raise DownloadFailed(f"{download.address.shown} sends a part that was not asked for", "use another mirror")
    stage.start_over()
    _go_on(stage, download, on_progress, limits)


def _continues(answer: Answer, size: int, origin: _Origin) -> bool:
    """Whether the answer may be written: the whole file, or the rest of what looks like the same one."""
    if answer.start == 0:
        return True
    same_size = origin.total is None or answer.total in (None, origin.total)
    other_content = origin.shown == answer.shown and answer.validator not in ("", origin.validator)
    return answer.start == size and same_size and not (origin.validator and other_content)


def _receive(
    stage: Stage, answer: Answer, origin: _Origin, on_progress: OnProgress, limits: DownloadLimits
) -> None:
    """Append what comes while there is room. Raises DownloadCut if it is not all, DownloadFailed, HostFull."""
    size, total = answer.start, answer.total
    if answer.start:
        total = total if total is not None else origin.total
    if total is not None:
        # A disk of another format is converted: it may need its size once more.
        needed = total - size + max(total, limits.spare_room)
        check_room(stage.partial.parent, needed, f"downloading {answer.shown}")
    validator = answer.validator or _kept_validator(answer, origin)
    shown_at = -1
    try:
        if not answer.start:
            stage.start_over()
        stage.write_origin(asdict(_Origin(answer.shown, validator, total)))
        with stage.partial.open("ab") as partial:
            for chunk in answer.chunks:
                size += len(chunk)
                _check_bounds(stage, answer.shown, size, total, limits.spare_room)
                partial.write(chunk)
                if size // 2**20 != shown_at:
                    shown_at = size // 2**20
                    on_progress(_percent(size, total), _words(size, total))
    except OSError as error:
        raise HostFull(
            f"cannot write {stage.partial}: {error.strerror}", "free space, or give another --state-dir"
        ) from error
    if total is not None and size < total:
        raise DownloadCut(f"{answer.shown} ended after {size // 2**20} of {total // 2**20} MiB")


def _kept_validator(answer: Answer, origin: _Origin) -> str:
    return origin.validator if answer.start and origin.shown == answer.shown else ""


def _check_bounds(stage: Stage, shown: str, size: int, total: int | None, spare_room: int) -> None:
    """Raises DownloadFailed or HostFull; what may have no end is not kept."""
    if total is not None and size > total:
        stage.remove()
        raise DownloadFailed(f"{shown} sends more than the {total} bytes it announced", "use another mirror")
    directory = stage.partial.parent
    free = shutil.disk_usage(directory).free
    if free < spare_room:
        if total is None:
            stage.remove()
        raise HostFull(
            f"downloading {shown} stopped after {size // 2**20} MiB: {directory} has {free // 2**20} MiB free",
            "free space, or give another --state-dir",
        )


def _percent(size: int, total: int | None) -> float:
    return min(size / total, 1.0) * 100 if total else 0.0


def _words(size: int, total: int | None) -> str:
    whole = f" of {total / 2**20:.0f}" if total is not None else ""
    return f"downloading, {size / 2**20:.0f}{whole} MiB"
