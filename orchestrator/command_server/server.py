"""The process that has every command loaded. It forks itself for each, and tells how it ended."""

from __future__ import annotations

import contextlib
import gc
import os
import pkgutil
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.command_server import wire
from orchestrator.command_server.likeness import likeness
from orchestrator.command_server.worker import Request

_CLIENT_SECONDS = 1.0  # for each thing a client has to say before its command begins
_FULL_PAUSE = 0.05  # while no more descriptors are to be had
# What only acts on guests and images needs: a controller does that, and there is one.
_LEFT_OUT = ("orchestrator.doctor", "orchestrator.drivers.guest_ssh", "orchestrator.imaging")
_DEFAULT = (*wire.RELAYED, signal.SIGCHLD)
# What a message raises that no client of ours has sent.
_NO_REQUEST = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def run(directory: Path, like: dict[str, Any]) -> Request | None:
    """Serve clients like that until standard input ends, then until the last command has ended.

    Returns None then; in each forked process, what it is to run. Raises OSError where no socket can be had.
    """
    server = _Server(directory, like)
    try:
        return server.run()
    finally:
        server.close()


@dataclass
class _Running:
    """A command that was begun; `connection` None: its client has gone."""

    pid: int
    ended: int  # readable once it has
    connection: socket.socket | None


class _Server:
    def __init__(self, directory: Path, like: dict[str, Any]) -> None:
        self._pid = os.getpid()
        self._likeness = like
        self._selector = selectors.PollSelector()  # the others are shared by forked processes
        self._running: dict[int, _Running] = {}
        os.close(os.pidfd_open(self._pid))  # without them nothing can be followed
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_dead(directory)
        self._path = directory / f"{self._pid}.sock"
        self._listening: socket.socket | None = _listen_at(self._path)
        self._watch(self._listening.fileno(), self._accept)
        self._watch(0, self._stop_listening)

    def run(self) -> Request | None:
        while self._listening is not None or self._running:
            for key, _ in self._selector.select():
                request: Request | None = key.data()
                if request is not None:
                    return request
        return None

    def close(self) -> None:
        """In a forked process: lets go of what is the server's, and leaves it there."""
        self._selector.close()
        for one in self._running.values():
            os.close(one.ended)
            if one.connection is not None:
                one.connection.close()
        if self._listening is not None:
            self._listening.close()
            if os.getpid() == self._pid:
                self._path.unlink(missing_ok=True)

    def _watch(self, descriptor: int, happened: Callable[[], Request | None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, happened)

    def _stop_listening(self) -> None:
        """Standard input has ended, and with it whoever has started this."""
        assert self._listening is not None
        self._selector.unregister(0)
        self._selector.unregister(self._listening.fileno())
        self._path.unlink(missing_ok=True)
        self._listening.close()
        self._listening = None
        # Whoever reads what the controller logs need not wait for the last command.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    # ---- a command ---------------------------------------------------------------------------------------

    def _accept(self) -> Request | None:
        """In the forked process: what it is to run."""
        if self._listening is None:
            return None
        try:
            connection, _ = self._listening.accept()
        except OSError:
            time.sleep(_FULL_PAUSE)
            return None
        try:
            connection.settimeout(_CLIENT_SECONDS)
            message = wire.receive(connection)
            if not self._is_welcome(connection, message):
                wire.send(connection, {"ready": False})
                raise ConnectionError("it is somebody else, or something else")
            wire.send(connection, {"ready": True})
        except _NO_REQUEST:
            connection.close()  # it runs its command itself
            return None
        try:
            return self._begin(connection, message)
        except _NO_REQUEST:
            with contextlib.suppress(OSError):
                wire.send_begun(connection, None)
            connection.close()
            return None

    def _is_welcome(self, connection: socket.socket, message: Any) -> bool:
        """What has changed since this was started the client has seen: it has just looked."""
        return wire.user_of(connection) == os.geteuid() and bool(message["likeness"] == self._likeness)

    def _begin(self, connection: socket.socket, message: Any) -> Request | None:
        """In the forked process: what it is to run. Raises what `_NO_REQUEST` has where nothing was begun."""
        descriptors = wire.receive_go(connection)
        try:
            request = Request.of(message, descriptors)
            one = _fork(connection)
        except BaseException:
            wire.close_all(descriptors)
            raise
        if one is None:
            return request
        wire.close_all(descriptors)
        self._running[one.pid] = one
        self._watch(one.ended, lambda: self._tell_end(one))
        self._watch(connection.fileno(), lambda: self._hear(one))
        return None

    def _hear(self, one: _Running) -> None:
        """Its client has gone: the command is asked to end."""
        if one.connection is None:
            return
        try:
            if one.connection.recv(64):
                return
        except OSError:
            pass
        self._let_go(one)
        os.kill(one.pid, signal.SIGTERM)

    def _tell_end(self, one: _Running) -> None:
        _, status = os.waitpid(one.pid, 0)
        if one.connection is not None:
            with contextlib.suppress(OSError):
                wire.send(one.connection, {"exit": os.waitstatus_to_exitcode(status)})
        self._let_go(one)
        self._selector.unregister(one.ended)
        os.close(one.ended)
        del self._running[one.pid]

    def _let_go(self, one: _Running) -> None:
        if one.connection is None:
            return
        self._selector.unregister(one.connection.fileno())
        one.connection.close()
        one.connection = None


def _fork(connection: socket.socket) -> _Running | None:
    """None in the forked process, which goes on once its client has been told; if it cannot be, it ends instead.

    Raises OSError; then there is none.
    """
    waiting, gate = os.pipe()
    with open(waiting, "rb", 0) as told, open(gate, "wb", 0) as go:  # noqa: PTH123
        pid = os.fork()
        if pid == 0:
            go.close()
            connection.close()
            if not told.read(1):
                os._exit(1)
            return None
        process = None
        try:
            process = os.pidfd_open(pid)
            wire.send_begun(connection, process)
            go.write(b"!")
        except OSError:
            if process is not None:
                os.close(process)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    return _Running(pid, process, connection)


def _listen_at(path: Path) -> socket.socket:
    """There is no socket under the name before it listens, which others would take for that of a dead server."""
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(aside))
    made.listen(64)
    aside.rename(path)
    return made


def _remove_dead(directory: Path) -> None:
    """Sockets that nobody listens on any more."""
    for path in directory.glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)  # one that hangs may have no place for another client
            try:
                asking.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue


def load() -> None:
    """All that a command loads before it looks at the world."""
    for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
        if not module.name.endswith("__main__") and not module.name.startswith(_LEFT_OUT):
            import_module(module.name)
    for library in ("sqlalchemy.dialects.sqlite", "rich.progress"):
        import_module(library)
    gc.freeze()


def main() -> None:
    """`python -m orchestrator.command_server DIRECTORY`, standard input a pipe of whoever wants it to run."""
    like = likeness()  # before anything is loaded: what changes meanwhile makes it another program
    for number in _DEFAULT:  # whatever was ignored by whoever started the controller
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    load()
    request = run(Path(sys.argv[1]), like)
    if request is not None:
        request.run()
