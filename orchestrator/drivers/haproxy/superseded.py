"""HAProxy processes that a newer one has replaced, for as long as they serve what they had begun.

Their statistics sockets are closed, so what they serve is read from the kernel: proc(5), /proc/PID/fd and
/proc/net/tcp.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.errors import BalancerError

_ESTABLISHED, _CLOSE_WAIT = "01", "08"
_TCP6_V4 = "0000000000000000FFFF0000"  # an IPv4 address in /proc/net/tcp6 follows this
_END_SECONDS = 5.0

Addresses = Counter[str]
"""`address:port` -> connections to it."""


class Superseded:
    """`file` names them, one process id a line; its time of change is that of the last replacement.

    `pid_file` names the process in force, which is none of them. `config`: the configuration file in their command
    lines, by which a process id that was given out again is told from theirs. `keep_alive`: seconds in which a
    client may still ask them something new.
    """

    def __init__(self, file: Path, pid_file: Path, config: Path, keep_alive: float) -> None:
        self._file = file
        self._pid_file = pid_file
        self._config = config
        self._keep_alive = keep_alive

    @classmethod
    def in_directory(cls, directory: Path, keep_alive: float) -> Superseded:
        """That of the balancer with this directory."""
        file, pid_file = directory / "haproxy.superseded", directory / "haproxy.pid"
        return cls(file, pid_file, directory / "haproxy.cfg", keep_alive)

    def add(self, pids: Iterable[int]) -> None:
        """A newer process replaces these. Said before it does, so that a crash forgets none, and after."""
        known = [*self.find_alive(), *pids]
        self._file.write_text("".join(f"{pid}\n" for pid in dict.fromkeys(known)), encoding="utf-8")

    def find_alive(self) -> list[int]:
        in_force = find_processes(self._pid_file, self._config)
        return [pid for pid in find_processes(self._file, self._config) if pid not in in_force]

    def count_connections(self, addresses: Iterable[str]) -> Addresses:
        """To each of these. One to all where nobody can tell, one more while a client may still ask for more."""
        alive = self.find_alive()
        if not alive:
            return Counter()
        try:
            sockets = {inode for pid in alive for inode in sockets_of(pid)}
        except OSError:
            return Counter(dict.fromkeys(addresses, 1))
        found = _connections(sockets)
        if self._is_recent():
            found.update(addresses)
        return found

    def _is_recent(self) -> bool:
        try:
            age = time.time() - self._file.stat().st_mtime
        except OSError:
            return False
        return 0 <= age <= self._keep_alive + 1

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


def find_processes(pid_file: Path, config: Path) -> list[int]:
    """Those that the file names, if they really are HAProxy with that configuration file."""
    try:
        pids = [int(word) for word in pid_file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []
    return [pid for pid in pids if is_ours(pid, str(config))]


def stop_processes(pids: Sequence[int]) -> None:
    """End them, with what they serve. Raises BalancerError if one does not end within 5 s."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _END_SECONDS
    for pid in pids:
        while is_alive(pid):
            if time.monotonic() > end:
                raise BalancerError(f"HAProxy process {pid} does not end", f"see: ps {pid}; kill -9 {pid}")
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """A zombie that nobody has collected yet is as good as gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def is_ours(pid: int, file: str) -> bool:
    """Its command line names that file."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    return file in words and is_alive(pid)


def sockets_of(pid: int) -> set[str]:
    """Inodes of its sockets. Raises OSError if they may not be seen."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found


def _connections(sockets: set[str]) -> Addresses:
    """Of these sockets, by the far end. One that the far end has closed is still read from."""
    found: Addresses = Counter()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
                fields = line.split()
                if fields[3] in (_ESTABLISHED, _CLOSE_WAIT) and fields[9] in sockets:
                    found[_far_end(fields[2])] += 1
    return found


def _far_end(text: str) -> str:
    """`0100007F:1F90` as the kernel prints it -> `127.0.0.1:8080`."""
    address, _, port = text.partition(":")
    digits = address.removeprefix(_TCP6_V4)
    if len(digits) != 8:
        return text
    return f"{ipaddress.IPv4Address(bytes.fromhex(digits)[::-1])}:{int(port, 16)}"
