"""A command handed to a server that listens, and followed to its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from orchestrator.command_server import wire
from orchestrator.command_server.likeness import likeness

_OFFER_SECONDS = 0.5  # a server that is that busy is slower than doing it here
_STATUS_SECONDS = 1.0  # for a server to say how a process ended that has


def hand_over(argv: list[str], sockets: list[str]) -> None:
    """As `client.run_at_server`; `sockets`: paths of those that are there."""
    with contextlib.ExitStack() as at_return:
        for connection in _connections(sockets):
            at_return.enter_context(connection)
            if _offer(connection, argv):
                process = _await_begun(connection)
                if process is not None:
                    _end_as(_follow(connection, process))


def _connections(sockets: list[str]) -> Iterator[socket.socket]:
    """One to each server of this user that listens."""
    for path in sockets:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_OFFER_SECONDS)
        try:
            connection.connect(path)
            is_ours = wire.user_of(connection) == os.geteuid()
        except OSError:
            is_ours = False
        if is_ours:
            yield connection
        else:
            connection.close()


def _offer(connection: socket.socket, argv: list[str]) -> bool:
    """Whether the server was willing and has been told to go."""
    try:
        request = {
            "likeness": likeness(),
            "argv": argv,
            "environment": dict(os.environ),
            "umask": _umask(),
            "ignored": [number for number in wire.RELAYED if signal.getsignal(number) is signal.SIG_IGN],
            "streams": [_nature(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        }
        wire.send(connection, request)
        if wire.receive(connection) != {"ready": True}:
            return False
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        try:
            wire.send_go(connection, (0, 1, 2, here))
        finally:
            os.close(here)
    # AttributeError: whoever started us has closed a standard stream.
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _nature(stream: Any) -> dict[str, Any]:
    """How text is written to it."""
    return {
        "encoding": stream.encoding,
        "errors": stream.errors,
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
    }


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _await_begun(connection: socket.socket) -> int | None:
    """A descriptor of the command's process; None: it was not begun. Ends this process where nobody says."""
    connection.settimeout(None)
    try:
        return wire.receive_begun(connection)
    except OSError:
        _give_up()
        return None


def _follow(connection: socket.socket, process: int) -> int:
    """Exit status of the command, negative: the signal it died from. Signals to this process go to the command."""
    relayed = 0

    def relay(number: int, _frame: FrameType | None) -> None:
        nonlocal relayed
        relayed = number
        with contextlib.suppress(OSError):  # it has just ended
            signal.pidfd_send_signal(process, number)

    for number in wire.RELAYED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # such as by nohup
            signal.signal(number, relay)
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    waiting.register(process, select.POLLIN)
    waiting.poll()
    connection.settimeout(_STATUS_SECONDS)
    try:
        return int(wire.receive(connection)["exit"])
    except (OSError, ValueError):
        if not relayed:
            _give_up()
        return -relayed


def _give_up() -> None:
    """Never returns."""
    sys.stderr.write(
        "understudy: the process that runs this command cannot be followed any longer\n"
        "  (see how far it came: understudy status)\n"
    )
    sys.exit(1)


def _end_as(status: int) -> None:
    """Never returns."""
    if status >= 0:
        sys.exit(status)
    with contextlib.suppress(OSError):  # KILL has no other
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    sys.exit(128 - status)  # for one that does not end a process
