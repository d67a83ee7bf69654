"""Where things live. One state directory holds everything an installation owns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UnderstudyError

_MAX_SOCKET_PATH = 90  # of the 107 that unix(7) allows; HAProxy adds a suffix of its own


@dataclass(frozen=True)
class StatePaths:
    """The rooms of a state directory. Private ones are 0700; the root is 0711 so that QEMU can pass through."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "config.toml"

    @property
    def database(self) -> Path:
        return self.root / "private" / "store.sqlite"

    @property
    def private(self) -> Path:
        return self.root / "private"

    @property
    def keys(self) -> Path:
        return self.root / "private" / "keys"

    @property
    def operator_key(self) -> Path:
        return self.keys / "operator_ed25519"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def uploads(self) -> Path:
        return self.root / "private" / "uploads"

    @property
    def secrets(self) -> Path:
        """Passwords that were applied, one file each."""
        return self.root / "private" / "secrets"

    @property
    def haproxy(self) -> Path:
        return self.root / "haproxy"

    @property
    def volumes(self) -> Path:
        """Directory of the local hosts' storage pool."""
        return self.root / "volumes"

    @property
    def work(self) -> Path:
        """Scratch space of builds and imports; nothing but downloads outlives the command that made it."""
        return self.root / "private" / "work"

    @property
    def doorbells(self) -> Path:
        """Sockets on which controllers are told of new wishes."""
        return self.root / "private" / "doorbells"

    def ensure(self) -> None:
        """Make the directories with their modes. Raises UnderstudyError naming the fix."""
        if len(str(self.haproxy / "stats.sock")) > _MAX_SOCKET_PATH:
            raise UnderstudyError(
                f"the state directory's path is too long for the sockets in it: {self.root}",
                f"use one of at most {_MAX_SOCKET_PATH - len('/haproxy/stats.sock')} characters",
            )
        try:
            for path, mode in ((self.root, 0o711), (self.images, 0o711), (self.private, 0o700)):
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(mode)
            for path in (self.keys, self.uploads, self.secrets, self.haproxy, self.work):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnderstudyError(
                f"cannot use the state directory {self.root}: {error.strerror}",
                "give another with --state-dir or UNDERSTUDY_STATE_DIR",
            ) from error


def default_state_dir() -> Path:
    """`UNDERSTUDY_STATE_DIR`, else /var/lib/understudy for root, else the XDG data folder."""
    if chosen := os.environ.get("UNDERSTUDY_STATE_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/understudy")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "understudy"
