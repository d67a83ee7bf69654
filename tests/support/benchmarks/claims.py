"""Growing from the standby pool."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.benchmarks.growth import (
    ask,
    await_true,
    direct_url,
    grow,
    serving_commands,
    site,
    switch_off,
    virsh,
)
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.yardstick import Bare, median_ratio, time_bare
from tests.support.installation import Installation

ROUNDS = 5
STOPPED_ROUNDS = 3


def claim_running() -> list[Row]:
    """Beside a controller: from the moment at which the wish was written until the new instance answers, and a
    whole `understudy scale` process; then a process that is the controller, against the same pool."""
    with site(1, "{state: running, max_ready: 8}") as made:
        with serving_commands(made):
            beside = [grow_beside(made, count) for count in (2, 3, 4)]
        alone = [grow(made, count).seconds for count in (5, 6, 7)]
    inside = statistics.median(one.inside for one in beside)
    return [
        Row("claim from a running pool, inside the controller", 1000 * inside, "ms", 100.0),
        Row(
            "claim from a running pool, process beside it",
            statistics.median(one.whole for one in beside),
            "s",
            0.6,
        ),
        Row("claim from a running pool, process without one", statistics.median(alone), "s", 0.6),
    ]


@dataclass(frozen=True)
class Beside:
    """Seconds of a growth that a controller carries out: from the start of the command, and from its wish."""

    whole: float
    inside: float


def grow_beside(made: Installation, count: int) -> Beside:
    done = grow(made, count)
    return Beside(done.seconds, done.answered_at - last_wish(made))


def last_wish(made: Installation) -> float:
    """When the newest number of instances was written (epoch)."""
    return max(
        float(event["at"]) for event in made.json_lines("events", "web") if event["kind"] == "settings_changed"
    )


def claim_stopped() -> list[Row]:
    """A whole `understudy scale` process against a stopped pool, without a controller and beside one; yardstick:
    virsh start of the same machines (`yardstick.py`), beside as many guests as what is measured by it."""
    alone, beside, bases = [], [], []
    with site(1, f"{{state: stopped, max_ready: {2 * STOPPED_ROUNDS + 1}}}") as made:
        parked = held_by_parked(made)
        for count in range(2, 2 * STOPPED_ROUNDS + 2, 2):
            bases.append(bare_seconds(made))
            alone.append((grow(made, count).seconds, bases[-1]))
            # A controller would stop again what virsh starts: the yardstick is taken while none runs.
            bases.append(bare_seconds(made))
            with serving_commands(made):
                beside.append((grow(made, count + 1).seconds, bases[-1]))
    return [
        *bare_rows("virsh start until its service answers", bases),
        *beside_virsh("claim from a stopped pool, process beside a controller", beside, 1.05),
        *beside_virsh("claim from a stopped pool, process without one", alone, 1.05),
        Row("host memory of its stopped members", parked, "MB", 0.0),
    ]


def claim_hibernated() -> list[Row]:
    """The same against a hibernated pool, beside a controller and without one; yardstick: virsh start of the same
    machines from their memory images, beside as many guests as what is measured by it."""
    alone, beside, bases = [], [], []
    with site(1, f"{{state: hibernated, max_ready: {2 * ROUNDS + 1}}}") as made:
        parked = held_by_parked(made)
        for count in range(2, 2 * ROUNDS + 2, 2):
            # A controller would hibernate again what virsh starts: the yardstick is taken while none runs.
            bases.append(bare_seconds(made, saved=True))
            alone.append((grow(made, count).seconds, bases[-1]))
            bases.append(bare_seconds(made, saved=True))
            with serving_commands(made):
                beside.append((grow_beside(made, count + 1), bases[-1]))
    return [
        *bare_rows("virsh start from a memory image until its service answers", bases),
        *beside_virsh(
            "claim from a hibernated pool, inside the controller", [(one.inside, base) for one, base in beside]
        ),
        *beside_virsh(
            "claim from a hibernated pool, process beside it", [(one.whole, base) for one, base in beside]
        ),
        *beside_virsh("claim from a hibernated pool, process without one", alone),
        Row("host memory of its hibernated members", parked, "MB", 0.0),
    ]


def bare_rows(what: str, bases: Sequence[Bare]) -> list[Row]:
    return [
        Row(what, statistics.median(one.plain for one in bases), "s"),
        Row(f"{what}, as the product describes it", statistics.median(one.own for one in bases), "s"),
    ]


def beside_virsh(what: str, pairs: Sequence[tuple[float, Bare]], bound: float = 1.25) -> list[Row]:
    """Of pairs of what was measured, in seconds, and its yardstick."""
    ours = [one for one, _ in pairs]
    return [
        Row(what, statistics.median(ours), "s"),
        Row(f"{what} : virsh start", median_ratio(ours, [bare.plain for _, bare in pairs]), "x", bound),
        Row(
            f"{what} : the same, as the product describes it",
            median_ratio(ours, [bare.own for _, bare in pairs]),
            "x",
        ),
    ]


def bare_seconds(made: Installation, saved: bool = False) -> Bare:
    """`virsh start` of a member of the pool, which is off or `saved`, until its service answers; then it is as
    before."""
    row = made.members("standby")[0]
    put_back = hibernate if saved else switch_off
    return time_bare(row["domain"], lambda: seconds_by_virsh(row, put_back), saved)


def hibernate(domain: str) -> None:
    virsh("managedsave", domain)


def seconds_by_virsh(row: dict[str, str], put_back: Callable[[str], object]) -> float:
    began = time.monotonic()
    virsh("start", row["domain"])
    await_true(lambda: ask(direct_url(row["address"])) != "")
    taken = time.monotonic() - began
    put_back(row["domain"])
    return taken


def held_by_parked(made: Installation) -> float:
    """MB in memory of the processes of the members of its pool."""
    if not resident(made.members("instance")) or not made.members("standby"):
        raise RuntimeError("no process of an instance is found, or nobody stands by")
    return resident(made.members("standby"))


def resident(rows: list[dict[str, str]]) -> float:
    """MB in memory of the processes of these machines."""
    done = subprocess.run(["ps", "-eww", "-o", "rss=", "-o", "args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 1) for line in done.stdout.splitlines()]
    marks = [f"guest={row['domain']}," for row in rows]
    return sum(int(size) for size, words in lines if any(mark in words for mark in marks)) / 1000
