"""`understudy serve` as processes that a test starts, stops, continues and kills."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from orchestrator.daemon.runtime import Runtime
from tests.support.installation import Failed, Installation


class ServeProcess:
    """One of them, with the lines it has said so far."""

    def __init__(self, site: Installation) -> None:
        self._process = site.start("serve")
        self._said = threading.Condition()
        self._lines: list[str] = []
        self._has_ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        with self._said:
            return list(self._lines)

    def says(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def await_line(self, words: str, seconds: float) -> None:
        """Raises Failed if it does not come, or the process ends before."""
        with self._said:
            self._said.wait_for(lambda: self._has_ended or any(words in line for line in self._lines), seconds)
        if not self.says(words):
            raise Failed(f"serve did not say {words!r} within {seconds} s: {self.lines}")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        """Whatever state it is in."""
        if self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            self._process.wait(timeout=60)
        self._reader.join(timeout=10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self._lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._has_ended = True
            self._said.notify_all()


@contextlib.contextmanager
def two_serving(site: Installation) -> Iterator[tuple[ServeProcess, ServeProcess]]:
    """Two, started at once: the one that acts, and the one that waits."""
    both = [ServeProcess(site), ServeProcess(site)]
    try:
        acting = next(one for one in both if one.pid == await_holder(site, {one.pid for one in both}))
        acting.await_line("controller is running", 10)
        yield acting, next(one for one in both if one is not acting)
    finally:
        for one in both:
            one.end()


def await_holder(site: Installation, pids: set[int], seconds: float = 15) -> int:
    """Which of these processes holds the controller lease. Raises Failed if none does in time."""
    runtime, waiting = Runtime(site.root), threading.Event()
    try:
        for _ in range(int(seconds / 0.05)):
            found = runtime.store.find_lease_holder("controller")
            if found is not None and int(found[0].split(":")[1]) in pids:
                return int(found[0].split(":")[1])
            waiting.wait(0.05)
    finally:
        runtime.close()
    raise Failed(f"none of {sorted(pids)} is the controller after {seconds} s")
