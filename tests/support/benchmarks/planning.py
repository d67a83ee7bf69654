"""How long `plan` takes over large worlds, and how its time grows. No I/O: only the planner runs."""

from __future__ import annotations

import time

from orchestrator.planner import plan
from tests.builders import NOW
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.worlds import AT_REST, WORLDS, LargeWorld

MACHINES = 10_000
ROUNDS = 7


def planning() -> list[Row]:
    """`plan` over 10,000 machines, at rest and in the middle of something, against 1,000 of the same."""
    large, ratios = {}, {}
    for name, make in WORLDS.items():
        # In turns, so that what else the machine does meets both sizes.
        worlds = make(MACHINES // 10), make(MACHINES)
        pairs = [[seconds_of_plan(world) for world in worlds] for _ in range(ROUNDS)]
        # What disturbs only adds: the shortest says most of the planner.
        small, large[name] = (min(times) for times in zip(*pairs, strict=True))
        ratios[name] = large[name] / small
    moving = [name for name in WORLDS if name not in AT_REST]
    slowest, steepest = max(moving, key=lambda name: large[name]), max(ratios, key=lambda name: ratios[name])
    return [
        Row("plan() over 10,000 machines at rest, one set", large["one set at rest"], "s", 0.5),
        Row("plan() over 10,000 machines at rest, 500 sets with drives", large["many sets at rest"], "s", 0.5),
        Row(f"plan() over 10,000 machines under way, slowest: {slowest}", large[slowest], "s", 0.5),
        Row(f"plan(): 10,000 : 1,000 machines, steepest: {steepest}", ratios[steepest], "x", 12.0),
    ]


def seconds_of_plan(world: LargeWorld) -> float:
    """Of this process: what others do meanwhile is not the planner's."""
    began = time.process_time()
    plan(world.desired, world.observed, world.busy, NOW)
    return time.process_time() - began
