"""`understudy` on a machine whose clock can be set: `python -m tests.support.set_clock FILE ROOT serve`.

FILE holds the seconds by which the clock is ahead of the real one, and may change at any time. The product's own
parts are composed as its runtime does, with this clock.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.daemon.runtime import Runtime
from orchestrator.daemon.serve import serve
from orchestrator.drivers.keys import SystemClock


class SetClock(SystemClock):
    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> float:
        return super().now() + float(self._file.read_text(encoding="utf-8") or 0)


class SetRuntime(Runtime):
    def __init__(self, root: Path, file: Path) -> None:
        super().__init__(root)
        self.clock = SetClock(file)


def main() -> None:
    file, root = map(Path, sys.argv[1:3])
    serve(SetRuntime(root, file), lambda: print("the controller is running", flush=True))


if __name__ == "__main__":
    main()
