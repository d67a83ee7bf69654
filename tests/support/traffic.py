"""Steady traffic through the balancer: bounded in rate, count and time, and sent to loopback addresses only.

Half of the clients make a new connection for each request, the others keep theirs. No client tries again: what a
browser would paper over counts as failed here.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CLIENTS = 4
RATE = 14.0  # requests a second of all clients together
MOST_REQUESTS = 6_000
MOST_SECONDS = 400.0
PATIENCE = 10.0  # seconds that one request may take
PIECE = 4096


@dataclass(frozen=True)
class Request:
    """One request: when it was begun (`time.monotonic`), how long it took, who answered, or why nobody did."""

    at: float
    seconds: float
    instance: str = ""
    failure: str = ""
    is_reused: bool = False  # it came over a connection that had served another one

    @property
    def until(self) -> float:
        return self.at + self.seconds


@dataclass
class Traffic:
    """What became of every request so far. Thread-safe."""

    _requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    def requests(self, since: float = 0.0) -> list[Request]:
        """Those begun at that moment or later, in the order of their ends."""
        with self._lock:
            return [one for one in self._requests if one.at >= since]

    def failed(self, since: float = 0.0) -> list[Request]:
        return [one for one in self.requests(since) if one.failure]

    def instances(self, since: float = 0.0) -> set[str]:
        """Who answered."""
        return {one.instance for one in self.requests(since) if not one.failure}


@dataclass(frozen=True)
class _Bounds:
    """`pause` is seconds between two requests of one client; `has_ended` says that enough were sent."""

    pause: float
    has_ended: Callable[[], bool]


@contextlib.contextmanager
def traffic(address: str, port: int = 8080, rate: float = RATE, clients: int = CLIENTS) -> Iterator[Traffic]:
    """`rate` requests a second for the front page, which names its instance; until the end of the block."""
    if not ipaddress.ip_address(address).is_loopback:
        raise ValueError(f"traffic may go to loopback addresses only, not to {address}")
    seen, over, end = Traffic(), threading.Event(), time.monotonic() + MOST_SECONDS

    def has_ended() -> bool:
        return over.is_set() or time.monotonic() > end or len(seen.requests()) >= MOST_REQUESTS

    bounds = _Bounds(clients / rate, has_ended)
    threads = [
        threading.Thread(target=_ask_all_the_time, args=(seen, (address, port), number % 2 == 1, bounds))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
        over.wait(bounds.pause / clients)  # one after the other, not all at the same moment
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask_all_the_time(seen: Traffic, where: tuple[str, int], keeps: bool, bounds: _Bounds) -> None:
    connection, due = http.client.HTTPConnection(*where, timeout=PATIENCE), time.monotonic()
    while not bounds.has_ended():
        seen.add(_ask(connection))
        if not keeps:
            connection.close()
        due = max(due + bounds.pause, time.monotonic())  # who was held up does not catch up in a burst
        while time.monotonic() < due and not bounds.has_ended():
            time.sleep(min(0.05, max(due - time.monotonic(), 0.0)))
    connection.close()


def _ask(connection: http.client.HTTPConnection, path: str = "/") -> Request:
    began, is_reused = time.monotonic(), connection.sock is not None
    instance = failure = ""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace").strip()
        if answer.status == 200:
            instance = text
        else:
            failure = f"status {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        failure = f"{type(error).__name__}: {error}"
        connection.close()
    return Request(began, time.monotonic() - began, instance, failure, is_reused)


class Download:
    """One long answer, read as it comes by a thread of its own."""

    def __init__(self, address: str, path: str, port: int = 8080) -> None:
        if not ipaddress.ip_address(address).is_loopback:
            raise ValueError(f"downloads may come from loopback addresses only, not from {address}")
        self._connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
        self._path = path
        self._moved = threading.Condition()
        self._text = ""
        self.ended_at: float | None = None
        self.failure = ""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def text(self) -> str:
        """What has come so far."""
        with self._moved:
            return self._text

    def await_text(self, words: str, seconds: float = PATIENCE) -> str:
        """What has come once these words have."""
        with self._moved:
            assert self._moved.wait_for(lambda: words in self._text, seconds), f"no {words!r} in {self._text!r}"
            return self._text

    def await_end(self, seconds: float = 60) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the download goes on after {seconds} s"

    def _read(self) -> None:
        try:
            self._connection.request("GET", self._path)
            answer = self._connection.getresponse()
            while piece := answer.read1(PIECE):
                with self._moved:
                    self._text += piece.decode("utf-8", "replace")
                    self._moved.notify_all()
        except (OSError, http.client.HTTPException) as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._connection.close()
            self.ended_at = time.monotonic()
