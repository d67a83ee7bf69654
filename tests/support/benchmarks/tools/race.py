"""The same machines by every tool in turns: from command start until all domains run, and until all answer."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from tests.support.benchmarks.row import Row
from tests.support.benchmarks.tools.lab import ADDRESSES, Lab
from tests.support.benchmarks.tools.starts import Starts
from tests.support.benchmarks.tools.tool import Tool
from tests.support.benchmarks.tools.toolbox import NotMeasured

SECONDS = 60.0
"""After this a run counts as failed."""


@dataclass(frozen=True)
class Times:
    """Seconds from the start of the command."""

    started: float
    answering: float
    ended: float


@dataclass(frozen=True)
class Round:
    """What each tool took in one turn, by name; without those that failed."""

    machines: int
    times: Mapping[str, Times]


class Race:
    """Tools in turns on one lab. One that fails is left out from then on, with its reason in `failed`."""

    def __init__(self, lab: Lab, tools: Sequence[Tool]) -> None:
        self.failed: dict[str, str] = {}
        self._lab = lab
        self._tools = tools
        self._starts = Starts(lab.host.uri)

    def prepare(self) -> None:
        """Install the tools; no guest runs."""
        for tool in self._tools:
            with self._giving_up(tool):
                tool.prepare()

    def warm_up(self) -> None:
        """One run of each that does not count: some import the image only then."""
        for tool in self._running():
            with self._giving_up(tool):
                measure(self._lab, self._starts, tool, 1, "warm-up")

    def turn(self, count: int, number: int) -> Round:
        times = {}
        tools = self._running()
        # Another one begins each time: the disk still writes what the one before has left.
        first = number % max(len(tools), 1)
        for tool in [*tools[first:], *tools[:first]]:
            with self._giving_up(tool):
                times[tool.name] = measure(self._lab, self._starts, tool, count, str(number))
        return Round(count, times)

    def close(self) -> None:
        self._starts.close()
        for tool in self._tools:
            tool.close()

    def _running(self) -> list[Tool]:
        return [tool for tool in self._tools if tool.name not in self.failed]

    @contextmanager
    def _giving_up(self, tool: Tool) -> Iterator[None]:
        try:
            yield
        except NotMeasured as reason:
            self.failed[tool.name] = str(reason)
            print(f"{tool.name}: {reason}", file=sys.stderr)


def measure(lab: Lab, starts: Starts, tool: Tool, count: int, mark: str) -> Times:
    """One run, after which nothing of its machines is left. Raises NotMeasured."""
    names = [f"m{mark}-{number}" for number in range(count)]
    lab.renew_network()
    command = tool.command(names)
    try:
        with _asking(lab, count) as asking, tempfile.TemporaryFile("w+") as said:
            starts.begin()
            began = time.monotonic()
            process = subprocess.Popen(
                [*tool.enter, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=_environment()
            )
            _wait(asking, process)
            answers = _moments(asking)
            started = starts.moment(count)
            ended = _end(process, began)
            if started is None or len(answers) < count or ended is None or process.returncode != 0:
                raise NotMeasured(_complaint(count, len(answers), process.returncode, said))
        return Times(started - began, max(answers) - began, ended - began)
    finally:
        tool.clean(names)
        lab.sweep()


def _environment() -> dict[str, str]:
    """With bytecode, as installed packages have it."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def _asking(lab: Lab, count: int) -> Iterator[subprocess.Popen[str]]:
    """The process that asks the guests, from inside their network."""
    module = "tests.support.benchmarks.tools.answering"
    words = [sys.executable, "-m", module, str(count), str(SECONDS), *ADDRESSES]
    process = subprocess.Popen([*lab.host.enter, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait(asking: subprocess.Popen[str], process: subprocess.Popen[bytes]) -> None:
    """Until there is nothing more to wait for: all answered, time is up, or the command failed."""
    while asking.poll() is None:
        if process.poll() not in (None, 0):
            asking.kill()
        time.sleep(0.05)


def _moments(asking: subprocess.Popen[str]) -> list[float]:
    assert asking.stdout is not None
    return [float(line.split()[1]) for line in asking.stdout]


def _end(process: subprocess.Popen[bytes], began: float) -> float | None:
    """When it ended by itself; one that goes on long after its machines answer is ended."""
    try:
        process.wait(timeout=max(1.0, SECONDS - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    return time.monotonic()


def _complaint(count: int, answering: int, status: int, said: IO[str]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    return f"{answering} of {count} machines answered, exit status {status}: {last}"


def rows_of(
    rounds: Sequence[Round], tools: Sequence[str], failed: Mapping[str, str], ours: Sequence[str]
) -> list[Row]:
    """Seconds of each tool, the product's ratio to it within one turn, and who was not measured.

    `ours` are the product's names among `tools`: the first is held to the bound, the others are reported.
    """
    rows = [Row(f"{name}: not measured: {reason}", None, "") for name, reason in failed.items()]
    grouped: dict[int, list[Round]] = defaultdict(list)
    for one in rounds:
        grouped[one.machines].append(one)
    for machines, turns in sorted(grouped.items()):
        for name in tools:
            seen = [one.times[name] for one in turns if name in one.times]
            if seen and name not in failed:
                rows += _seconds(name, machines, seen)
                for place, mine in enumerate(ours if name not in ours else ()):
                    rows += _ratios(name, machines, turns, (mine, None if place else 1.0))
    return rows


def _label(machines: int) -> str:
    return "1 machine" if machines == 1 else f"{machines} machines"


def _seconds(name: str, machines: int, seen: Sequence[Times]) -> list[Row]:
    label = _label(machines)
    return [
        Row(f"{name}, {label}: all started", statistics.median(one.started for one in seen), "s"),
        Row(f"{name}, {label}: all answer", statistics.median(one.answering for one in seen), "s"),
        Row(f"{name}, {label}: command over", statistics.median(one.ended for one in seen), "s"),
    ]


def _ratios(name: str, machines: int, turns: Sequence[Round], bounded: tuple[str, float | None]) -> list[Row]:
    """`bounded`: the product's name and what its ratio is held to."""
    ours, bound = bounded
    pairs = [(one.times[ours], one.times[name]) for one in turns if name in one.times and ours in one.times]
    if not pairs:
        return []
    started = statistics.median(mine.started / other.started for mine, other in pairs)
    answering = statistics.median(mine.answering / other.answering for mine, other in pairs)
    label = _label(machines)
    return [
        Row(f"{ours} : {name}, {label}: all started", started, "x", bound),
        Row(f"{ours} : {name}, {label}: all answer", answering, "x", bound),
    ]
