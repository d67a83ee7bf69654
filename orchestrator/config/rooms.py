"""The rooms of the state directory: what an audit counts in them (the StateRooms port), and their lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.config.paths import StatePaths
from orchestrator.config.scratch import PREFIXES, find_mounts, is_abandoned
from orchestrator.errors import StoreError
from orchestrator.models.stock import StateStock

GIVEN = ".given"  # ends the names of files that say which numbers of images were given
_DIGEST = re.compile(r"([0-9a-f]{64})\.qcow2")
_UNFINISHED = re.compile(r"(?:installation|identity\.secret|operator_ed25519(?:\.pub)?)\.(\d+)")


@contextlib.contextmanager
def hold_rooms(paths: StatePaths) -> Iterator[None]:
    """Nobody else prunes, or audits: an image, an upload or a secret that is kept may be recorded before anybody
    takes it for unneeded."""
    descriptor = os.open(paths.secrets, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class DirectoryRooms:
    """Rooms that are not there yet are empty."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with hold_rooms(self._paths):
            yield

    def take_stock(self) -> StateStock:
        digests = (_DIGEST.fullmatch(file.name) for file in _entries(self._paths.images))
        rooms = (*_entries(self._paths.work), *_entries(self._paths.images))
        scratch = (file for file in rooms if file.name.startswith(PREFIXES))
        return StateStock(
            images=frozenset(found[1] for found in digests if found),
            scratch=frozenset(file.name for file in scratch if is_abandoned(file)),
            uploads=frozenset(file.name for file in _entries(self._paths.uploads)),
            secrets=frozenset(file.name for file in _entries(self._paths.secrets)),
            copies=frozenset(self._copies()),
        )

    def _copies(self) -> Iterator[str]:
        unfinished = (file for file in _entries(self._paths.declarations) if file.name.startswith("."))
        keys = (file for file in (*_entries(self._paths.keys), *_entries(self._paths.private)) if _is_left(file))
        records = (file for file in _entries(self._paths.image_records) if not file.name.endswith(GIVEN))
        for file in (*unfinished, *keys, *records):
            yield str(file.relative_to(self._paths.private))

    def remove_image(self, digest: str) -> None:
        self._remove(self._paths.images / f"{digest}.qcow2")

    def remove_scratch(self, name: str) -> None:
        parents = (self._paths.work, self._paths.images)
        directory = next((parent / name for parent in parents if (parent / name).exists()), parents[0] / name)
        if mounts := find_mounts(directory, Path("/proc/self/mounts").read_text(encoding="utf-8")):
            raise StoreError(f"{mounts[0]} is mounted below {directory}", f"umount {mounts[0]}")
        if is_abandoned(directory):
            self._remove(directory, shutil.rmtree)

    def remove_upload(self, name: str) -> None:
        self._remove(self._paths.uploads / name)

    def remove_secret(self, name: str) -> None:
        self._remove(self._paths.secrets / name)

    def remove_copy(self, name: str) -> None:
        self._remove(self._paths.private / name)

    def _remove(self, path: Path, how: Callable[[Path], object] = Path.unlink) -> None:
        try:
            how(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror}") from error


def write_kept(file: Path, content: bytes, partial: str = "") -> None:
    """Whole or not at all, 0600 from the first byte, on disk before it has its name. Raises StoreError.

    `partial` is what it is called until then; by default it has the number of this process.
    """
    unfinished = file.with_name(partial or f"{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        unfinished.rename(file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(
            f"cannot keep {file}: {error.strerror}", "check the disk space and rights of the state directory"
        ) from error


def _is_left(file: Path) -> bool:
    """Of a key or name that a process was writing, which is gone."""
    found = _UNFINISHED.fullmatch(file.name)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot look into {directory}: {error.strerror}") from error
