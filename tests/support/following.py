"""Waits for events as an operator would who follows them, instead of asking again and again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.installation import Failed, Installation

Event = dict[str, Any]


class Following:
    """All events of an installation so far, oldest first, in `events`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.events: list[Event] = []
        self._process = process
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("{"):
                continue  # its last word when it is ended
            with self._more:
                self.events.append(json.loads(line))
                self._more.notify_all()

    def end(self) -> None:
        self._process.terminate()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def wait(self, is_it: Callable[[Event], bool], seconds: float, what: str, after: int = 0) -> Event:
        """The first such event with an id above `after`. Raises Failed with `what` after `seconds`."""
        found: list[Event] = []

        def look() -> bool:
            found[:] = [event for event in self.events if event["id"] > after and is_it(event)]
            return bool(found)

        with self._more:
            if not self._more.wait_for(look, seconds):
                told = "\n".join(str(event) for event in self.events)
                raise Failed(f"not within {seconds} s: {what}\n{told}")
        return found[0]


@contextlib.contextmanager
def following(on: Installation) -> Iterator[Following]:
    process = on.start("events", "--follow", "--json")
    made = Following(process)
    try:
        yield made
    finally:
        made.end()
