"""How many bad inputs the tests of them try now, and how many come through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

# What is tried -> (file, which of its tests).
INPUTS: dict[str, tuple[str, str]] = {
    "scale set files with a mistake": ("tests/unit/test_scaleset_file.py", ""),
    "hostile text in specs, seeds and names": ("tests/unit/test_hostile_input.py", ""),
    "hostile words of guests": ("tests/unit/test_hostile_guest.py", ""),
    "hostile and damaged images": (
        "tests/integration/test_images.py",
        "refused or pretends or header_names or cannot or too_large or names_that_are_none",
    ),
}
_EXAMPLES = "1000"  # of each property
_TEST = re.compile(r"^(tests/\S+?\.py)::\S+:$")
_CASES = re.compile(r"(\d+) passing(?: examples)?, (\d+) failing")


def run_inputs() -> dict[str, tuple[int, int]]:
    """What is tried -> (inputs tried, those that came through)."""
    return {what: _run(file, chosen) for what, (file, chosen) in INPUTS.items()}


def _run(file: str, chosen: str) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-show-statistics", f"--junit-xml={report}"]
        environment = {**os.environ, "UNDERSTUDY_EXAMPLES": _EXAMPLES}
        done = subprocess.run(
            [*command, *(["-k", chosen] if chosen else []), file],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
        sys.stderr.write(done.stdout)
        return count(done.stdout, list(ElementTree.parse(report).iter("testcase")))


def count(printed: str, tests: list[ElementTree.Element]) -> tuple[int, int]:
    """Of each property its examples, of every other test one; what did not pass came through."""
    lines = printed.splitlines()
    properties = sum(_TEST.match(line) is not None for line in lines)
    cases = [(int(found[1]), int(found[2])) for line in lines if (found := _CASES.search(line))]
    failed = sum(any(child.tag in ("failure", "error", "skipped") for child in one) for one in tests)
    tried = len(tests) - properties + sum(passing + failing for passing, failing in cases)
    return tried, failed
