"""A plan's work grows with the number of machines and no faster. Counted in bytecodes: no clock is asked."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from orchestrator.planner import plan
from tests.builders import NOW
from tests.support.benchmarks.worlds import AT_REST, WORLDS, LargeWorld

FEW, MANY = 100, 400


def bytecodes_of_plan(world: LargeWorld) -> int:
    """How many are run to make the plan."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        plan(world.desired, world.observed, world.busy, NOW)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", WORLDS)
def test_a_plan_is_linear_in_the_number_of_machines(name: str) -> None:
    few, many = (bytecodes_of_plan(WORLDS[name](count)) for count in (FEW, MANY))
    assert few > FEW
    assert many <= few * MANY / FEW * 1.02


@pytest.mark.parametrize("name", WORLDS)
def test_the_worlds_are_what_they_are_named(name: str) -> None:
    """At rest there is nothing to do; in the middle of something there are many steps."""
    world = WORLDS[name](MANY)
    steps = plan(world.desired, world.observed, world.busy, NOW).steps
    assert len(steps) == 0 if name in AT_REST else len(steps) >= MANY // 10
