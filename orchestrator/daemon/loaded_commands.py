"""The command server of a controller: a process of its own that ends with this one, however that ends."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

log = logging.getLogger("understudy.serve")

_PACKAGES = Path(__file__).resolve().parents[2]
_PAUSE = 60.0  # seconds
_END_SECONDS = 0.5


class LoadedCommands:
    """Keeps one; where that is not possible, commands load themselves as ever.

    `directory`: of its socket; `pause`: seconds from one start to the next.
    """

    def __init__(self, directory: Path, pause: float = _PAUSE) -> None:
        self._directory = directory
        self._pause = pause
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = -pause

    def ensure(self) -> None:
        """Start it if it does not run; asked at every turn."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() < self._started_at + self._pause:
            return
        self._started_at = time.monotonic()
        if self._process is not None:
            log.warning("the command server has ended (status %d): starting another", self._process.returncode)
            self._let_go(self._process)
        try:
            self._process = self._start()
        except OSError as error:
            log.warning("commands are not kept loaded: %s", error.strerror)

    def close(self, seconds: float = _END_SECONDS) -> None:
        """Commands that run go on, and the process with them; else its end is waited for, so long at most."""
        if self._process is not None:
            self._let_go(self._process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            # -P: what lies in the working directory is not the program.
            [sys.executable, "-P", "-m", "orchestrator.command_server", str(self._directory)],
            stdin=subprocess.PIPE,  # it serves until this ends
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C at a controller is not meant for the commands
        )

    @staticmethod
    def _let_go(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
