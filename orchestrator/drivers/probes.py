"""Readiness probes from outside: does the service answer?

A guest that boots answers late: a connection made too early hangs until a retransmission. So a new attempt
begins every 100 ms while older ones are still open, and the first that passes wins; nothing waits for a
timeout of an attempt that was merely too early.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from orchestrator.errors import Interrupted, NeverReady
from orchestrator.models.spec import HttpProbe
from orchestrator.ports.guest import Patience

_EVERY = 0.1
_ATTEMPT_SECONDS = 5.0
_MAX_OPEN = 30
_MAX_ANSWER = 4096

Judge = Callable[[bytes], bool | None]
"""Bytes received so far -> passed, failed, or None: more is needed."""


def await_http(address: str, port: int, probe: HttpProbe, patience: Patience) -> None:
    """Returns once `GET path` is answered with the expected status. Raises NeverReady or Interrupted."""
    request = f"GET {probe.path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: understudy\r\n\r\n".encode()
    what = f"http://{address}:{port}{probe.path} does not answer with {probe.status}"
    _Race(address, port, request, _http_judge(probe.status)).run(patience, what)


def await_banner(address: str, port: int, patience: Patience) -> None:
    """Returns once an SSH server sends its banner."""
    _Race(address, port, b"", _ssh_judge).run(patience, f"no SSH server answers on {address}:{port}")


def await_tcp(address: str, port: int, patience: Patience) -> None:
    """Returns once a connection stays open: user-mode forwarding accepts and closes what the guest refuses."""
    _Race(address, port, b"", _tcp_judge).run(patience, f"nothing listens on {address}:{port}")


def _http_judge(status: int) -> Judge:
    def judge(answer: bytes) -> bool | None:
        line, found, _ = answer.partition(b"\r\n")
        if not found:
            return None
        words = line.split()
        return len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1] == str(status).encode()

    return judge


def _ssh_judge(answer: bytes) -> bool | None:
    return True if answer.startswith(b"SSH-") else None


def _tcp_judge(answer: bytes) -> bool | None:
    return True if answer else None


class _Race:
    """Overlapping attempts of one probe."""

    def __init__(self, address: str, port: int, request: bytes, judge: Judge) -> None:
        self._where = (address, port)
        self._request = request
        self._judge = judge
        self._selector = selectors.DefaultSelector()
        self._began: dict[socket.socket, float] = {}
        self._got: dict[socket.socket, bytes] = {}

    def run(self, patience: Patience, what: str) -> None:
        try:
            next_try = 0.0
            while True:
                now = time.monotonic()
                if patience.is_cancelled():
                    raise Interrupted(what)
                if now >= patience.deadline:
                    raise NeverReady(what)
                if now >= next_try and len(self._began) < _MAX_OPEN:
                    self._begin(now)
                    next_try = now + _EVERY
                if self._look(now):
                    return
        finally:
            for connection in list(self._began):
                self._end(connection)
            self._selector.close()

    def _begin(self, now: float) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        code = connection.connect_ex(self._where)
        if code not in (0, 115):  # EINPROGRESS
            connection.close()
            return
        self._began[connection] = now
        self._selector.register(connection, selectors.EVENT_WRITE)

    def _look(self, now: float) -> bool:
        for key, events in self._selector.select(timeout=_EVERY / 2):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                passed = self._step(connection, events)
            except OSError:
                passed = False
            if passed:
                return True
            if passed is False:
                self._end(connection)
        for connection, began in list(self._began.items()):
            if now - began > _ATTEMPT_SECONDS:
                self._end(connection)
            elif self._is_quietly_open(connection, now - began):
                return True
        return False

    def _step(self, connection: socket.socket, events: int) -> bool | None:
        if events & selectors.EVENT_WRITE:
            if self._request:
                connection.send(self._request)
            self._got[connection] = b""
            self._selector.modify(connection, selectors.EVENT_READ)
            return None
        chunk = connection.recv(_MAX_ANSWER)
        self._got[connection] += chunk
        verdict = self._judge(self._got[connection])
        if verdict is None and (not chunk or len(self._got[connection]) >= _MAX_ANSWER):
            return False
        return verdict

    def _is_quietly_open(self, connection: socket.socket, age: float) -> bool:
        """A TCP probe also passes where the server waits for us to speak first."""
        return self._judge is _tcp_judge and connection in self._got and age > _QUIET_SECONDS

    def _end(self, connection: socket.socket) -> None:
        self._began.pop(connection, None)
        self._got.pop(connection, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)
        connection.close()


_QUIET_SECONDS = 0.5
