"""Where things live. One state directory holds everything an installation owns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.state_dir import COMMAND_SOCKETS
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
    def identity(self) -> Path:
        """The installation's name, for the day on which the store is lost."""
        return self.private / "installation"

    @property
    def declarations(self) -> Path:
        """Copies of what was declared, one file for each scale set."""
        return self.private / "declarations"

    @property
    def image_records(self) -> Path:
        """Descriptions of the images, one file for each version."""
        return self.private / "image-records"

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

    @property
    def command_sockets(self) -> Path:
        """Sockets of processes that run commands for others."""
        return self.root / COMMAND_SOCKETS

    @property
    def private_rooms(self) -> tuple[Path, ...]:
        """Those whose files belong to a backup."""
        return self.keys, self.uploads, self.secrets, self.declarations, self.image_records

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
            for path in (*self.private_rooms, self.haproxy, self.work):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnderstudyError(
                f"cannot use the state directory {self.root}: {error.strerror}",
                "give another with --state-dir or UNDERSTUDY_STATE_DIR",
            ) from error
