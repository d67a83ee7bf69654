"""The StateRooms port: what an audit counts in the state directory."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.config.paths import StatePaths
from orchestrator.config.scratch import PREFIXES, find_mounts, is_abandoned
from orchestrator.config.secrets import hold_secrets
from orchestrator.errors import StoreError
from orchestrator.models.stock import StateStock

_DIGEST = re.compile(r"([0-9a-f]{64})\.qcow2")


class DirectoryRooms:
    """Rooms that are not there yet are empty."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with hold_secrets(self._paths.secrets):
            yield

    def take_stock(self) -> StateStock:
        digests = (_DIGEST.fullmatch(file.name) for file in _entries(self._paths.images))
        scratch = (file for file in _entries(self._paths.work) if file.name.startswith(PREFIXES))
        return StateStock(
            images=frozenset(found[1] for found in digests if found),
            scratch=frozenset(file.name for file in scratch if is_abandoned(file)),
            uploads=frozenset(file.name for file in _entries(self._paths.uploads)),
            secrets=frozenset(file.name for file in _entries(self._paths.secrets)),
        )

    def remove_image(self, digest: str) -> None:
        self._remove(self._paths.images / f"{digest}.qcow2")

    def remove_scratch(self, name: str) -> None:
        directory = self._paths.work / name
        if mounts := find_mounts(directory, Path("/proc/self/mounts").read_text(encoding="utf-8")):
            raise StoreError(f"{mounts[0]} is mounted below {directory}", f"umount {mounts[0]}")
        if is_abandoned(directory):
            self._remove(directory, shutil.rmtree)

    def remove_upload(self, name: str) -> None:
        self._remove(self._paths.uploads / name)

    def remove_secret(self, name: str) -> None:
        self._remove(self._paths.secrets / name)

    def _remove(self, path: Path, how: Callable[[Path], object] = Path.unlink) -> None:
        try:
            how(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror}") from error


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot look into {directory}: {error.strerror}") from error
