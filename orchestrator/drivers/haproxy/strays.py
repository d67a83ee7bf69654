"""HAProxy processes of this installation that nobody owns: they listen, but are not the one that can be talked to.

One that was replaced by a reload has closed its listening sockets and finishes what it serves: it is none.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

from orchestrator.drivers.haproxy.runtime import RuntimeApi
from orchestrator.drivers.haproxy.superseded import Superseded, is_ours, sockets_of
from orchestrator.errors import BalancerError
from orchestrator.render.haproxy import KEEP_ALIVE

_LISTEN = "0A"  # state of a socket in /proc/net/tcp


class HaproxyProcesses:
    """`directory` is the balancer's, with its file and socket."""

    def __init__(self, directory: Path) -> None:
        self._file = str(directory / "haproxy.cfg")
        self._runtime = RuntimeApi(directory / "stats.sock")
        self._superseded = Superseded.in_directory(directory, KEEP_ALIVE)

    def find_strays(self) -> tuple[int, ...]:
        running = self._find_running()
        numbers = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        ours = [number for number in numbers if number != running and is_ours(number, self._file)]
        listening = _listening_sockets() if ours else set()
        return tuple(number for number in ours if _listens(number, listening))

    def end_stray(self, process: int) -> None:
        if not is_ours(process, self._file):
            return
        try:
            self._superseded.add([process])  # drains wait for what it serves
            os.kill(process, signal.SIGUSR1)
        except ProcessLookupError:
            pass
        except OSError as error:
            raise BalancerError(f"cannot end HAProxy process {process}: {error.strerror}") from error

    def _find_running(self) -> int | None:
        with contextlib.suppress(BalancerError):
            found = re.search(r"^Pid: (\d+)$", self._runtime.ask("show info"), re.MULTILINE)
            return int(found[1]) if found else None
        return None


def _listening_sockets() -> set[str]:
    """Inodes of the sockets on which anybody of this machine listens."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:]]
            found |= {row[9] for row in rows if row[3] == _LISTEN}
    return found


def _listens(process: int, listening: set[str]) -> bool:
    """False too if it is gone, or another user's."""
    with contextlib.suppress(OSError):
        return bool(sockets_of(process) & listening)
    return False
