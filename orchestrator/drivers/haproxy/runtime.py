"""HAProxy's runtime API: one command line in, its answer out.

Reference: HAProxy 2.6 management guide, section 9.3.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path

from orchestrator.errors import BalancerError
from orchestrator.models.balancing import Frontend, Server
from orchestrator.models.sightings import Rotation, ServerSighting
from orchestrator.render.haproxy import check_options

_TIMEOUT = 5.0
# Bits of srv_admin_state in `show servers state`. That a server began in maintenance is said of it for ever.
_MAINT = 0x01 | 0x02 | 0x20
_BEGAN_IN_MAINT = 0x04
_DRAIN = 0x08 | 0x10
_DOWN = "0"  # srv_op_state there
_PORT = 18  # where srv_port is in a line
_DELETE_SECONDS = 1.0


class RuntimeApi:
    """Talks to one stats socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, command: str) -> str:
        """The answer, stripped. Raises BalancerError if nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_TIMEOUT)
                connection.connect(str(self._path))
                connection.sendall(command.encode() + b"\n")
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
        except OSError as error:
            raise BalancerError(f"HAProxy does not answer on {self._path}: {error}") from error
        return answer.decode("utf-8", "replace").strip()

    def look(self) -> tuple[dict[tuple[str, str], ServerSighting], dict[tuple[str, str], str]]:
        """(backend, server) -> what HAProxy thinks of it, and -> its `address:port`."""
        states = self._admin_states(self.ask("show servers state"))
        found, addresses = {}, {}
        said = self.ask("show stat -1 4 -1")
        rows = self._rows(said, "pxname", "svname", "addr", "status", "scur", "qcur")
        for backend, server, address, status, current, queued in rows:
            addresses[backend, server] = address
            found[backend, server] = ServerSighting(
                state=states.get((backend, server), Rotation.MAINT),
                is_up=status.startswith(("UP", "DRAIN", "no check")),
                sessions=int(current or 0) + int(queued or 0),
            )
        return found, addresses

    def failing(self, wanted: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
        """The servers that are down though they should serve, each with its line for a file of server states. Only
        those that stay at the `address:port` they have: a new process takes the port from there, whatever its own
        file says."""
        lines = (line.split(" ") for line in self.ask("show servers state").splitlines())
        servers = (fields for fields in lines if len(fields) > _PORT and fields[0].isdigit())
        return {(one[1], one[3]): _as_loaded(one) for one in servers if _is_failing(one, wanted)}

    def trust(self, keys: Iterable[tuple[str, str]]) -> None:
        """These servers are down after as many failed checks as their `fall` says. HAProxy takes one that leaves
        maintenance, or is new, for one failed check from being down."""
        for backend, server in keys:
            self.ask(f"set server {backend}/{server} health up")

    def add(self, front: Frontend, server: Server) -> None:
        name = f"{front.name}/{server.member}"
        self.ask(f"add server {name} {server.address}:{server.port} {check_options(front.check)}")
        self.ask(f"enable health {name}")
        self.set_state(front.name, server, Rotation.MAINT)

    def set_state(self, backend: str, server: Server, before: Rotation) -> None:
        """To that of the server, which was in state `before`."""
        name = f"{backend}/{server.member}"
        if server.state is Rotation.READY:
            # A server that was loaded as drained has weight 0 from the file; one whose adding a crash cut short
            # is not checked.
            self.ask(f"set weight {name} 1")
            self.ask(f"enable health {name}")
        self.ask(f"set server {name} state {server.state.value}")
        if server.is_proven and (before, server.state) == (Rotation.MAINT, Rotation.READY):
            self.trust([(backend, server.member)])

    def remove(self, backend: str, server: str) -> None:
        """Sessions left on it are cut: whoever wanted them served has drained it before."""
        name = f"{backend}/{server}"
        self.ask(f"set server {name} state maint")
        self.ask(f"shutdown sessions server {name}")
        end = time.monotonic() + _DELETE_SECONDS
        while "still has connections" in self.ask(f"del server {name}") and time.monotonic() < end:
            time.sleep(0.02)

    def _admin_states(self, text: str) -> dict[tuple[str, str], Rotation]:
        found = {}
        for line in text.splitlines():
            fields = line.split()
            if len(fields) < 8 or line.startswith("#") or not fields[0].isdigit():
                continue
            admin, weight = int(fields[6]), int(fields[7])
            state = Rotation.READY
            if admin & _MAINT:
                state = Rotation.MAINT
            elif admin & _DRAIN or weight == 0:
                state = Rotation.DRAIN
            found[fields[1], fields[3]] = state
        return found

    def _rows(self, text: str, *columns: str) -> list[tuple[str, ...]]:
        """These columns of every line."""
        lines = [line for line in text.splitlines() if line]
        if not lines or not lines[0].startswith("# "):
            return []
        header = lines[0].removeprefix("# ").split(",")
        places = [header.index(column) for column in columns]
        pick = itemgetter(*places)
        return [pick(line.split(",", max(places) + 1)) for line in lines[1:]]


def _is_failing(fields: list[str], wanted: Mapping[tuple[str, str], str]) -> bool:
    """Of a line of `show servers state`: the server is down (srv_op_state), nobody asked for that
    (srv_admin_state), and its address stays."""
    is_failing = fields[5] == _DOWN and int(fields[6]) & ~_BEGAN_IN_MAINT == 0
    return is_failing and wanted.get((fields[1], fields[3])) == f"{fields[4]}:{fields[_PORT]}"


def _as_loaded(fields: list[str]) -> str:
    """As a new process is to read it: with admin state 0, so that what its own file says of maintenance counts."""
    return f"{' '.join([*fields[:6], '0', *fields[7:]])}\n"
