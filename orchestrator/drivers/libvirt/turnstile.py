"""Who has just been started waits a moment for those that still are, so that guests do not slow starts down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While a machine is started."""
        with self._changed:
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def await_empty(self, seconds: float) -> None:
        """Until nobody is inside, or so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside, timeout=seconds)
