"""Readiness probes from outside: does the service answer?

A guest that boots answers late: a connection made too early hangs until a retransmission. So further attempts
begin while older ones are still open, and the first that passes wins; nothing waits for the time-out of an
attempt that was merely too early. But each attempt costs the guest work just when it has most to do (a server
forks for it, and all that hang reach it together once its network is up), so few are open at a time, and they come
at intervals that grow with the time waited: a guest that needs a minute is asked once a second, not ten times.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable

from orchestrator.errors import Interrupted, NeverReady
from orchestrator.models.spec import HttpProbe
from orchestrator.ports.guest import Patience

# The interval between attempts is this share of the time waited so far, within these bounds (seconds).
_SHARE, _SHORTEST, _LONGEST = 0.04, 0.2, 1.0
_MAX_OPEN = 3
_ATTEMPT_SECONDS = 15.0
# An attempt gives way to a fresh one, which has better chances if the guest did not listen yet, only after this
# share of the time waited, at least (seconds): a guest that boots slowly also answers slowly.
_GIVE_WAY_SHARE, _GIVE_WAY_LEAST = 0.1, 0.5
_QUIET_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_MAX_ANSWER = 4096
_MAX_BANNER = 255  # bytes of an SSH server's first line, by RFC 4253

Judge = Callable[[bytes], bool | None]
"""Bytes received so far -> passed, failed, or None: more is needed."""


def await_http(address: str, port: int, probe: HttpProbe, patience: Patience) -> None:
    """Returns once `GET path` is answered with the expected status. Raises NeverReady or Interrupted."""
    request = f"GET {probe.path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: understudy\r\n\r\n".encode()
    what = f"http://{address}:{port}{probe.path} does not answer with {probe.status}"
    _Race(address, port, request, _http_judge(probe.status)).run(patience, what).close()


def await_tcp(address: str, port: int, patience: Patience) -> None:
    """Returns once a connection stays open: user-mode forwarding accepts and closes what the guest refuses."""
    what = f"nothing listens on {address}:{port}"
    _Race(address, port, b"", _tcp_judge, quiet_passes=True).run(patience, what).close()


def open_ssh(address: str, port: int, patience: Patience) -> socket.socket:
    """A connection on which an SSH server has sent its banner, a line; nothing of it is read yet."""
    return _Race(address, port, b"", _ssh_judge).run(patience, f"no SSH server answers on {address}:{port}")


def rest(patience: Patience, seconds: float) -> None:
    """A pause. Raises Interrupted as soon as the work is no longer wanted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if patience.is_cancelled():
            raise Interrupted("the work is no longer wanted")
        time.sleep(_LOOK_SECONDS)


def _http_judge(status: int) -> Judge:
    def judge(answer: bytes) -> bool | None:
        line, found, _ = answer.partition(b"\r\n")
        if not found:
            return None
        words = line.split()
        return len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1] == str(status).encode()

    return judge


def _ssh_judge(answer: bytes) -> bool | None:
    """A whole line: whoever reads it afterwards is not kept waiting for its end."""
    line, found, _ = answer.partition(b"\n")
    if not found:
        return None if len(answer) < _MAX_BANNER else False
    return line.startswith(b"SSH-") and len(line) < _MAX_BANNER


def _tcp_judge(answer: bytes) -> bool | None:
    return True if answer else None


class _Race:
    """Overlapping attempts of one probe. Answers are looked at, not taken from the socket."""

    def __init__(self, address: str, port: int, request: bytes, judge: Judge, quiet_passes: bool = False) -> None:
        self._where = (address, port)
        self._request = request
        self._judge = judge
        self._quiet_passes = quiet_passes
        self._selector = selectors.DefaultSelector()
        self._asked: dict[socket.socket, float] = {}  # when the attempt began, or was asked

    def run(self, patience: Patience, what: str) -> socket.socket:
        """The winning connection; all others are closed."""
        began = time.monotonic()
        next_try = 0.0
        winner: socket.socket | None = None
        try:
            while winner is None:
                now = time.monotonic()
                if patience.is_cancelled():
                    raise Interrupted(what)
                if now >= patience.deadline:
                    raise NeverReady(what)
                if now >= next_try and self._make_place(now, now - began):
                    self._begin(now)
                    next_try = now + min(max((now - began) * _SHARE, _SHORTEST), _LONGEST)
                winner = self._look(now)
        finally:
            for connection in [one for one in self._asked if one is not winner]:
                self._end(connection)
            self._selector.close()
        winner.setblocking(True)
        return winner

    def _make_place(self, now: float, waited: float) -> bool:
        """True if another attempt may begin."""
        if len(self._asked) < _MAX_OPEN:
            return True
        oldest = min(self._asked, key=self._asked.__getitem__)
        if now - self._asked[oldest] < max(waited * _GIVE_WAY_SHARE, _GIVE_WAY_LEAST):
            return False
        self._end(oldest)
        return True

    def _begin(self, now: float) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        if connection.connect_ex(self._where) not in (0, errno.EINPROGRESS):
            connection.close()
            return
        self._asked[connection] = now
        self._selector.register(connection, selectors.EVENT_WRITE)

    def _look(self, now: float) -> socket.socket | None:
        for key, events in self._selector.select(timeout=_LOOK_SECONDS):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            passed = self._step(connection, events)
            if passed:
                return connection
            if passed is False:
                self._end(connection)
        for connection, asked in list(self._asked.items()):
            if self._quiet_passes and self._is_connected(connection) and now - asked > _QUIET_SECONDS:
                # A server that waits for us to speak first.
                return connection
            if now - asked > _ATTEMPT_SECONDS:
                self._end(connection)
        return None

    def _step(self, connection: socket.socket, events: int) -> bool | None:
        try:
            if events & selectors.EVENT_WRITE:
                connection.sendall(self._request)
                self._selector.modify(connection, selectors.EVENT_READ)
                return None
            answer = connection.recv(_MAX_ANSWER, socket.MSG_PEEK)
        except OSError:
            return False
        verdict = self._judge(answer)
        return False if verdict is None and self._is_at_end(connection, answer) else verdict

    def _is_at_end(self, connection: socket.socket, answer: bytes) -> bool:
        """Nothing more can come that would change the verdict."""
        if not answer or len(answer) >= _MAX_ANSWER:
            return True
        # Part of an answer is there already: look again when the rest has come, without spinning.
        time.sleep(_LOOK_SECONDS / 10)
        return False

    def _is_connected(self, connection: socket.socket) -> bool:
        return bool(self._selector.get_key(connection).events & selectors.EVENT_READ)

    def _end(self, connection: socket.socket) -> None:
        self._asked.pop(connection, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)
        connection.close()
