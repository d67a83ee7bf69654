"""At how many points of each operation controllers are killed now, and what was left over after it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

_TESTS = "tests/e2e/test_crash.py"
_KILLED = re.compile(r"^[.FE]*([a-z-]+): killed (\d+) times", re.MULTILINE)
_LEAKS = re.compile(r"^[.FE]*after ([a-z-]+): (\d+) left over$", re.MULTILINE)


def run_kills() -> dict[str, tuple[int, int]]:
    """Operation -> (kill points, things left over, or 1 if it did not come to its end)."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", _TESTS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stdout)
    found = count(done.stdout)
    return found if done.returncode == 0 else {**found, "tests that did not pass": (1, 1)}


def count(printed: str) -> dict[str, tuple[int, int]]:
    """An operation that is tried twice, with forks and without, counts twice. What did not come to its end says
    nothing of what it left over."""
    kills, leaks, ended = Counter[str](), Counter[str](), Counter[str]()
    for operation, number in _KILLED.findall(printed):
        kills[operation] += int(number)
        ended[operation] -= 1
    for operation, number in _LEAKS.findall(printed):
        leaks[operation] += int(number)
        ended[operation] += 1
    return {name: (number, leaks[name] - min(ended[name], 0)) for name, number in kills.items()}
