"""The HAProxy process and its file.

Invariant: the file on disk says what the process does, and `haproxy -c` has accepted it before any process reads
it. Servers that are there change their state at once. Where only servers differ, runtime commands put the change
in force (no reload, no connection lost), and the file that says the same is validated and moved into place after
them. Any other change is validated, moved into place with a mark and loaded by a new process that takes over the
listening sockets; then the mark goes.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from orchestrator.drivers.haproxy.runtime import RuntimeApi
from orchestrator.drivers.haproxy.superseded import Superseded, find_processes, stop_processes
from orchestrator.errors import BalancerError
from orchestrator.models.balancing import BalancerConfig, Frontend, Server
from orchestrator.models.sightings import BalancerSighting, Rotation, ServerSighting
from orchestrator.render.haproxy import KEEP_ALIVE, HaproxyProcess, render_haproxy

_DIGEST = re.compile(r"^# understudy-digest: (\w+)$", re.MULTILINE)
_BIND = re.compile(r"^    bind (\S+)$", re.MULTILINE)
_SERVER = re.compile(r"^    server (\S+) (\S+)(?: (disabled|weight 0))?$")
_START_SECONDS = 5.0
_STATES_VERSION = "1\n"  # how a file of server states begins
_LOADING = "# this file is being loaded\n"


class HaproxyBalancer:
    """`directory` (0700) holds file, socket and pid; `template` is the text of haproxy.cfg.j2."""

    def __init__(self, directory: Path, template: str) -> None:
        self._file = directory / "haproxy.cfg"
        self._candidate = directory / "haproxy.cfg.new"
        self._pid_file = directory / "haproxy.pid"
        self._socket = directory / "stats.sock"
        self._state_file = directory / "servers.state"
        self._template = template
        self._runtime = RuntimeApi(self._socket)
        self._superseded = Superseded.in_directory(directory, KEEP_ALIVE)

    # ---- looking -----------------------------------------------------------------------------------------

    def observe(self) -> BalancerSighting:
        if not self._socket.exists():
            return BalancerSighting(running=False)
        try:
            servers, addresses = self._runtime.look()
        except BalancerError:
            return BalancerSighting(running=False)
        digest = self._digest(servers, addresses)
        return BalancerSighting(True, digest, self._with_superseded(servers, addresses))

    def _with_superseded(
        self, servers: dict[tuple[str, str], ServerSighting], addresses: dict[tuple[str, str], str]
    ) -> dict[tuple[str, str], ServerSighting]:
        """With the sessions that processes replaced by the running one still serve."""
        if not self._superseded.find_alive():
            return servers
        connections = self._superseded.count_connections(set(addresses.values()))
        return {
            key: replace(seen, sessions=seen.sessions + connections[addresses.get(key, "")])
            for key, seen in servers.items()
        }

    def _digest(
        self, running: dict[tuple[str, str], ServerSighting], addresses: dict[tuple[str, str], str]
    ) -> str:
        """Of the file in force; empty if the process does not do what the file says."""
        text = self._current()
        match = _DIGEST.search(text) if _LOADING not in text else None
        written = _servers_in(text)
        same = written == {key: (addresses[key], seen.state) for key, seen in running.items()}
        return match[1] if match and same else ""

    def _current(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8")
        except OSError:
            return ""

    # ---- changing ----------------------------------------------------------------------------------------

    def converge(self, config: BalancerConfig) -> None:
        try:
            self._converge(config)
        except OSError as error:
            raise BalancerError(f"cannot change the load balancer: {error}", f"see {self._file.parent}") from error
        except subprocess.TimeoutExpired as error:
            raise BalancerError("HAProxy does not end its start within 30 s", f"see {self._file}") from error

    def _converge(self, config: BalancerConfig) -> None:
        if not config.frontends:
            self._stop()
            return
        running = self._set_states(config)
        text = self._render(config)
        if running and _structure(text) == _structure(self._current()):
            self._change_servers(config)
            self._write_candidate(text)
            self._candidate.replace(self._file)
            if self.observe().digest == config.digest():
                return
        else:
            self._write_candidate(text)
        if not running:
            self._check_ports(config)
        self._load(text, config, running)

    def _set_states(self, config: BalancerConfig) -> bool:
        """Of servers that are there, before anything else: clients wait for these. False if nothing runs."""
        if not self._socket.exists():
            return False
        try:
            present, addresses = self._runtime.look()
        except BalancerError:
            return False
        for key, (_, server) in _servers_of(config).items():
            seen = present.get(key)
            if seen is not None and seen.state is not server.state and addresses.get(key) == _where(server):
                self._runtime.set_state(key[0], server, seen.state)
        return True

    def _render(self, config: BalancerConfig) -> str:
        process = HaproxyProcess(str(self._socket), str(self._pid_file), str(self._state_file), *_unprivileged())
        return render_haproxy(self._template, config, process)

    def _write_candidate(self, text: str) -> None:
        try:
            self._candidate.write_text(text, encoding="utf-8")
            self._candidate.chmod(0o600)
        except OSError as error:
            raise BalancerError(f"cannot write {self._candidate}: {error.strerror}") from error
        done = self._spawn(["-c", "-q", "-f", str(self._candidate)])
        if done.returncode != 0:
            raise BalancerError(f"HAProxy refuses its configuration: {_alerts(done)}", f"see {self._candidate}")

    def _change_servers(self, config: BalancerConfig) -> None:
        present, addresses = self._runtime.look()
        wanted = _servers_of(config)
        for key in present:
            target = wanted.get(key)
            moved = target is not None and addresses.get(key) != _where(target[1])
            if target is None or moved:
                self._runtime.remove(*key)
        for key, (front, server) in wanted.items():
            seen = present.get(key)
            if seen is None or addresses.get(key) != _where(server):
                self._runtime.add(front, server)
            elif seen.state is not server.state:
                self._runtime.set_state(key[0], server, seen.state)

    def _load(self, text: str, config: BalancerConfig, running: bool) -> None:
        previous = self._current()
        wanted = {key: server for key, (_, server) in _servers_of(config).items()}
        places = {key: _where(server) for key, server in wanted.items()}
        failing = self._runtime.failing(places) if running else {}
        self._state_file.write_text(_STATES_VERSION + "".join(failing.values()), encoding="utf-8")
        # Until the new process answers the file says that it is not in force: whoever comes after a crash in
        # between must not take the old process for one that does what is written here.
        self._put_in_place(text + _LOADING)
        arguments = ["-D", "-f", str(self._file), "-p", str(self._pid_file)]
        old = self._pids() if running else []
        if old:
            arguments += ["-x", str(self._socket), "-sf", *map(str, old)]
            self._superseded.add(old)
        done = self._spawn(arguments)
        if done.returncode != 0:
            if running:
                self._put_in_place(previous)
            raise BalancerError(
                f"HAProxy does not start: {_alerts(done)}", "see which process holds the port: ss -ltnp"
            )
        self._await_socket(old)
        if old:
            self._superseded.add(old)
        serving = (key for key, server in wanted.items() if server.state is Rotation.READY)
        self._runtime.trust(key for key in serving if key not in failing)
        self._put_in_place(text)

    def _put_in_place(self, text: str) -> None:
        """Whole or not at all."""
        part = self._file.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.chmod(0o600)
        part.replace(self._file)

    def _await_socket(self, old: list[int]) -> None:
        """The new process answers on the socket; the old one may need a moment to let go of it."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(BalancerError):
                text = self._runtime.ask("show info")
                pid = re.search(r"^Pid: (\d+)$", text, re.MULTILINE)
                if pid and int(pid[1]) not in old:
                    return
            time.sleep(0.01)
        raise BalancerError("HAProxy started but does not answer on its socket", f"see {self._file}")

    def _stop(self) -> None:
        stop_processes([*self._pids(), *self._superseded.find_alive()])
        self._superseded.forget()
        part = self._file.with_suffix(".part")
        for path in (self._file, part, self._candidate, self._pid_file, self._socket, self._state_file):
            path.unlink(missing_ok=True)

    def _pids(self) -> list[int]:
        """Our process, if the pid file names one that really is HAProxy with our file."""
        return find_processes(self._pid_file, self._file)

    # ---- ports -------------------------------------------------------------------------------------------

    def why_not_bindable(self, address: str, port: int) -> str:
        if self.observe().running and f"{address}:{port}" in _BIND.findall(self._current()):
            return ""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
                probe.listen(1)
        except OSError as error:
            return {
                errno.EADDRINUSE: "another program listens there",
                errno.EADDRNOTAVAIL: "this machine has no such address",
                errno.EACCES: "ports below 1024 need root",
            }.get(error.errno or 0, str(error.strerror))
        return ""

    def _check_ports(self, config: BalancerConfig) -> None:
        for front in config.frontends:
            why = self.why_not_bindable(front.address, front.listen)
            if why:
                raise BalancerError(
                    f"endpoint {front.name} cannot listen on {front.address}:{front.listen}: {why}",
                    f"see who: ss -ltnp 'sport = :{front.listen}'",
                )

    def _spawn(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        tool = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if tool is None:
            raise BalancerError("HAProxy is not installed", "apt-get install haproxy")
        with (self._file.parent / "haproxy.err").open("w+", encoding="utf-8") as errors:
            done = subprocess.run(
                [tool, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                check=False,
                timeout=30,
            )
            errors.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, "", errors.read())


@lru_cache(maxsize=1)
def _servers_in(text: str) -> Mapping[tuple[str, str], tuple[str, Rotation]]:
    """(backend, server) -> (address, state) as the file says; it mostly says what it did at the last look."""
    states = {"disabled": Rotation.MAINT, "weight 0": Rotation.DRAIN, None: Rotation.READY}
    found, backend = {}, ""
    for line in text.splitlines():
        if line.startswith("backend "):
            backend = line.split()[1]
        elif match := _SERVER.match(line):
            found[backend, match[1]] = (match[2], states[match[3]])
    return found


def _servers_of(config: BalancerConfig) -> dict[tuple[str, str], tuple[Frontend, Server]]:
    """By (backend, server)."""
    return {(front.name, server.member): (front, server) for front in config.frontends for server in front.servers}


def _where(server: Server) -> str:
    """As the runtime API says it."""
    return f"{server.address}:{server.port}"


def _structure(text: str) -> str:
    """The file without what the runtime API can change: servers and the digest."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("    server ", "# understudy-digest")))


def _alerts(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if "[ALERT]" in line] or done.stderr.splitlines()
    return " ".join(" ".join(lines).split())[-500:] or f"exit status {done.returncode}"


def _unprivileged() -> tuple[str, str]:
    """User and group that a HAProxy of root gives itself to; empty where an ordinary user starts it.

    Raises BalancerError if there is neither its own user nor `nobody`.
    """
    if os.geteuid() != 0:
        return "", ""
    for name in ("haproxy", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return name, grp.getgrgid(user.pw_gid).gr_name
    raise BalancerError("HAProxy would run as root: there is no user 'haproxy'", "apt-get install haproxy")
