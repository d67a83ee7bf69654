"""The files of golden images in the directory of a host's storage pool, reached as files on this machine.

An image is complete once its mark is written, last of all. Until then its files are left over: so are those of an
image that another has followed, but for a frozen overlay over which machines are written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import GoldenUnusable
from orchestrator.models.naming import golden_disk, golden_mark, golden_memory
from orchestrator.models.volume_names import GoldenVolume, parse_volume

_MARK_LENGTH = 2**16  # bytes; what is longer is no mark


class FileMark(BaseModel):
    """A file as it was when its image was complete. `modified` is its mtime in ns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    modified: int
    sha256: str


class GoldenMark(BaseModel):
    """`source` is the domain it was taken of, `base` the digest of the image beneath. `created_at`: seconds
    since the epoch. `writer`: versions of libvirt and QEMU, and the processor, under which it was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    base: str
    created_at: float
    writer: str
    disk: FileMark
    memory: FileMark


@dataclass(frozen=True)
class Golden:
    """Where the parts of one image are, or will be. `serial` tells apart those that a model has had."""

    model: str
    serial: int
    disk: Path
    memory: Path
    mark: Path


class GoldenFiles:
    def __init__(self, directory: Path, prefix: str) -> None:
        self.directory = directory
        self._prefix = prefix

    def at(self, model: str, serial: int) -> Golden:
        names = (name(self._prefix, model, serial) for name in (golden_disk, golden_memory, golden_mark))
        return Golden(model, serial, *(self.directory / name for name in names))

    def list_all(self) -> list[Golden]:
        """Of whichever part there is, newest last."""
        found = set()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.directory):  # noqa: PTH208 - names are all that is needed, of many files
                parsed = parse_volume(self._prefix, name)
                if isinstance(parsed, GoldenVolume):
                    found.add((parsed.model, parsed.serial))
        return [self.at(model, serial) for model, serial in sorted(found)]

    def models(self) -> set[str]:
        return {one.model for one in self.list_all()}

    def list_of(self, model: str) -> list[Golden]:
        return [one for one in self.list_all() if one.model == model]

    def next_of(self, model: str) -> Golden:
        """Not there yet."""
        return self.at(model, max((one.serial for one in self.list_of(model)), default=0) + 1)


def read_mark(golden: Golden) -> GoldenMark | None:
    """None if there is none, or none that was written to its end."""
    with contextlib.suppress(OSError, ValidationError), golden.mark.open("rb") as file:
        return GoldenMark.model_validate_json(file.read(_MARK_LENGTH))
    return None


def write_mark(golden: Golden, mark: GoldenMark) -> None:
    """Once what it tells of is on the disk."""
    for path in (golden.disk, golden.memory):
        _sync(path)
    with golden.mark.open("xb") as file:
        golden.mark.chmod(0o400)
        file.write(mark.model_dump_json(indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(golden.mark.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def mark_file(path: Path) -> FileMark:
    """As it is now."""
    with path.open("rb") as file:
        seen = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileMark(size=seen.st_size, modified=seen.st_mtime_ns, sha256=digest)


def size_on_disk(path: Path) -> int:
    """Bytes; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return path.stat().st_blocks * 512
    return 0


def check_file(path: Path, mark: FileMark, thoroughly: bool = False) -> None:
    """Its content is hashed if anybody has written it since, or `thoroughly`. Raises GoldenUnusable."""
    try:
        seen = path.stat()
        is_as_it_was = (seen.st_size, seen.st_mtime_ns) == (mark.size, mark.modified)
        if (thoroughly or not is_as_it_was) and mark_file(path).sha256 != mark.sha256:
            raise GoldenUnusable(f"{path.name} is not what it was when the golden image was taken")
    except OSError as error:
        raise GoldenUnusable(f"{path.name} of the golden image cannot be read: {error.strerror}") from error


def remove_parts(golden: Golden, keep_disk: bool = False) -> None:
    """The mark first: without it there is no image. Absent is success."""
    for path in (golden.mark, golden.memory) if keep_disk else (golden.mark, golden.memory, golden.disk):
        path.unlink(missing_ok=True)
