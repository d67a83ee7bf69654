"""A doorbell between processes: a command that wrote a wish rings it, controllers look at once.

Only a hint. Where nobody listens, or a ring is lost, the controller's safety net finds the wish.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path


def ring(directory: Path) -> None:
    """Ring every doorbell in the directory. Never fails, never waits; bells of dead processes are taken down."""
    for bell in directory.glob("*.sock"):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(b"!", str(bell))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                bell.unlink()
        except OSError:
            continue


class Doorbell:
    """One process's bell: listens in a thread and calls `on_ring`. Removed on close."""

    def __init__(self, directory: Path, on_ring: Callable[[], None]) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / f"{os.getpid()}.sock"
        self._on_ring = on_ring
        self._closing = False
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._thread = threading.Thread(target=self._listen, name="doorbell", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        ring(self._path.parent)
        self._thread.join(timeout=2)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        while not self._closing:
            with contextlib.suppress(OSError):
                self._socket.recv(16)
            self._on_ring()
