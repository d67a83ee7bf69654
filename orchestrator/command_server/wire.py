"""What client and server say to each other over a Unix stream socket.

```
client                                   server
  | Request                      ------->  |   what is to be run, and by whom it was typed
  | <-------------------- {"ready": true}  |   or {"ready": false}, and the client runs the command itself
  | go, with four descriptors    ------->  |   standard input, output, errors; working directory
  | <------- begun, with one descriptor    |   the process of the command, to be signalled; or not begun, as above
  | <------------------- {"exit": status}  |   negative: the signal it died from
```

The end of the client's side means that the client is gone. Nothing is begun before the go, and nothing that the
client is not told of. The descriptors come with the go, not before: those that a server never took stay open as
long as it hangs, and whoever reads the command's output would wait for their end.

A message is its length in four bytes, then JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from typing import Any

RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals to a client that are its command's."""
_GO = b"!"
_BEGUN, _NOT_BEGUN = b"+", b"-"
_DESCRIPTORS = 4
_LENGTH = struct.Struct("!I")
_LARGEST = 16 * 1024 * 1024  # bytes; an environment has at most a few


def user_of(connection: socket.socket) -> int:
    """Who is at the other end, as the kernel says. Raises OSError."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def send(connection: socket.socket, message: Any) -> None:
    """Raises OSError."""
    body = json.dumps(message).encode("ascii")
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket) -> Any:
    """Raises OSError, or ValueError where it is no message."""
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    if length > _LARGEST:
        raise ValueError(f"a message of {length} bytes")
    return json.loads(_receive_exactly(connection, length))


def send_go(connection: socket.socket, descriptors: tuple[int, int, int, int]) -> None:
    """Raises OSError."""
    socket.send_fds(connection, [_GO], descriptors)


def receive_go(connection: socket.socket) -> list[int]:
    """The four descriptors, open, which are the caller's to close. Raises OSError, also where it is no go."""
    said, descriptors, _, _ = socket.recv_fds(connection, 1, _DESCRIPTORS)
    if said != _GO or len(descriptors) != _DESCRIPTORS:
        close_all(descriptors)
        raise ConnectionError("that was no go")
    return descriptors


def send_begun(connection: socket.socket, process: int | None) -> None:
    """`process`: a descriptor of it; None: nothing was begun, nor will be. Raises OSError."""
    socket.send_fds(connection, [_NOT_BEGUN if process is None else _BEGUN], [] if process is None else [process])


def receive_begun(connection: socket.socket) -> int | None:
    """As it was sent; the descriptor is the caller's to close. Raises OSError where nobody says either."""
    said, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if said == _NOT_BEGUN:
        return None
    if said != _BEGUN or not descriptors:
        close_all(descriptors)
        raise ConnectionError("the other side has ended")
    return descriptors[0]


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        part = connection.recv(length - len(received))
        if not part:
            raise ConnectionError("the other side has ended")
        received += part
    return received
