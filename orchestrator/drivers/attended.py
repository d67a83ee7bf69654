"""paramiko at work for a guest that may be hostile: whatever its server does or leaves undone, it ends in time.

paramiko waits without end in places: for the answer to a request, for a key exchange that the server has begun
anew, for a server that reads nothing. So what may wait is done by another thread, and the one that wants it looks
at the clock; where there is no patience left the connection is cut, and with it ends whatever waits in paramiko.

```
  this thread   ──┬── looks at the clock, hears what comes ──┬── returns what `work` did, or cuts and raises
  another one     └── connects, sends, receives: `work` ─────┘
```

Only this thread asks whether the work is still wanted: the lease that it was decided under is this thread's
(`store.fence`).
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import paramiko
from paramiko.packet import Packetizer

_LOOK_SECONDS = 0.1
_LAST_SECONDS = 1.0  # for `work` to notice that it was cut off
_PIECES = 8  # given and not heard yet; then `work` waits, and with it the guest
_LARGEST_PACKET = 2**18  # bytes; RFC 4253 wants 35,000, and no server sends more than it was allowed

T = TypeVar("T")
Give = Callable[[bytes], None]


class _BoundedPackets(Packetizer):
    """paramiko believes a packet that says it has 4 GiB, and collects them."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if n > _LARGEST_PACKET:
            raise paramiko.SSHException(f"the server announces a packet of {n} bytes")
        return super().read_all(n, check_rekey)


def bounded_transport(sock: Any, **options: Any) -> paramiko.Transport:
    """For SSHClient.connect(transport_factory)."""
    return paramiko.Transport(sock, packetizer_class=_BoundedPackets, **options)


def attend(
    work: Callable[[Give], T], look: Callable[[], None], hear: Callable[[bytes], None], cut: Callable[[], None]
) -> T:
    """What `work` returns or raises, done by another thread.

    Meanwhile this one calls `look` several times a second, and `hear` with each piece that `work` gives, b"" where
    none has come for a moment. What one of them raises comes out of here, after `cut`, which has to end `work`.
    """
    pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES)
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work(pieces.put))
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            done.set_exception(error)
        pieces.put(None)

    thread = threading.Thread(target=run, name="ssh", daemon=True)
    thread.start()
    try:
        while (piece := _next(pieces)) is not None:
            hear(piece)
            look()
        return done.result()
    finally:
        if not done.done():
            cut()
            _await_end(thread, pieces)


def _next(pieces: queue.Queue[bytes | None]) -> bytes | None:
    try:
        return pieces.get(timeout=_LOOK_SECONDS)
    except queue.Empty:
        return b""


def _await_end(thread: threading.Thread, pieces: queue.Queue[bytes | None]) -> None:
    """Takes what is given still, so that nobody waits for it to be heard."""
    end = time.monotonic() + _LAST_SECONDS
    while thread.is_alive() and time.monotonic() < end:
        with contextlib.suppress(queue.Empty):
            pieces.get(timeout=_LOOK_SECONDS / 2)


def cut(connection: Any) -> None:
    """Wakes whoever waits for this socket, in whatever thread; it is still to be closed."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def close_client(client: paramiko.SSHClient) -> None:
    """At once, in whatever state it is."""
    transport = client.get_transport()
    if transport is not None:
        cut(transport.sock)
        # Ends the timer of a key exchange that never came to its end: it would hold up the end of the process.
        transport.packetizer.complete_handshake()
    client.close()
