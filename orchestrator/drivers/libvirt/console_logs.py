"""What serial consoles have shown, on a host that is this machine: files beside the volumes, and no volumes.

A guest chooses every byte of them, by printing enough also the first one: libvirt must not look for a format
there. They are read here as files. On a host elsewhere there are none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.drivers.libvirt.volumes import CONSOLES, is_here
from orchestrator.errors import HostError, HostFull
from orchestrator.models.naming import console_log

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIES = 100  # of making one, while others remove the directory that has become empty: one in three meets that


class ConsoleLogs:
    """`uri` is that of the host's libvirt, `pool` the directory of its storage pool. Thread-safe."""

    def __init__(self, uri: str, pool: Path) -> None:
        self._uri = uri
        self._directory = pool / CONSOLES

    def why_none(self) -> str:
        """Why none are kept; empty if they are."""
        if not is_here(self._uri):
            return f"{self._uri} is another machine, and what guests wrote there is not fetched"
        for place in (self._directory, self._directory.parent):
            try:
                place.lstat()
            except FileNotFoundError:
                continue
            except OSError as error:
                return f"{place} cannot be reached: {error.strerror}"
            return "" if os.access(place, os.R_OK | os.W_OK | os.X_OK) else f"this user may not write to {place}"
        return ""

    def make(self, domain: str, incarnation: int) -> str:
        """The path of a new one, which is empty; an empty path where none are kept. The directory of the pool must
        be there. Raises HostError."""
        if self.why_none():
            return ""
        name = console_log(domain, incarnation)
        path = str(self._directory / name)
        with self._told(f"cannot make {path}"):
            for _ in range(_TRIES):
                with contextlib.suppress(FileNotFoundError):
                    self._make(name)
                    return path
        raise HostError(f"cannot make {path}: there is no such directory")

    def _make(self, name: str) -> None:
        """Raises OSError."""
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700)
        with self._opened() as directory:
            for old in _list(directory):
                if old == name or old.startswith(f"{name}."):
                    os.unlink(old, dir_fd=directory)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o600, dir_fd=directory))

    def tail(self, domain: str, incarnation: int, size: int) -> bytes:
        """The last `size` bytes; empty if there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if not is_here(self._uri):
            return b""
        with contextlib.suppress(OSError), self._opened() as directory:
            file = os.open(console_log(domain, incarnation), flags, dir_fd=directory)
            try:
                seen = os.fstat(file)
                return os.pread(file, size, max(seen.st_size - size, 0)) if stat.S_ISREG(seen.st_mode) else b""
            finally:
                os.close(file)
        return b""

    def list_paths(self) -> dict[str, str]:
        """Name -> path, those that were rolled over among them."""
        return {name: str(self._directory / name) for name in self._names()}

    def remove(self, name: str) -> None:
        """Absent is success. Raises HostError."""
        self._remove([name])

    def remove_all_of(self, domain: str) -> None:
        """Those of all its bodies, with what was rolled over. Raises HostError."""
        self._remove([name for name in self._names() if name.startswith(f"{domain}.")])

    def _names(self) -> list[str]:
        if is_here(self._uri):
            with contextlib.suppress(OSError), self._opened() as directory:
                return sorted(_list(directory))
        return []

    def _remove(self, names: list[str]) -> None:
        if not names:
            return
        gone = contextlib.suppress(FileNotFoundError)
        with self._told(f"cannot remove {self._directory / names[0]}"), gone, self._opened() as directory:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
        # The last one takes the directory with it: the pool could not be removed while it is there.
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The directory itself, and no link to another one. Raises OSError."""
        directory = os.open(self._directory, _DIRECTORY)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise HostFull(f"{what}: {error.strerror}", "free space on the host, then apply again") from error
            raise HostError(f"{what}: {error.strerror}") from error


def _list(directory: int) -> list[str]:
    """What is in the directory that is open there."""
    return os.listdir(directory)
