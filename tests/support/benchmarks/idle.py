"""A controller that has nothing to do."""

from __future__ import annotations

import time

from tests.support.benchmarks.growth import serving_commands, site
from tests.support.benchmarks.processes import children, cpu_seconds, own_megabytes
from tests.support.benchmarks.row import Row

_SECONDS = 30.0


def idle() -> list[Row]:
    """`understudy serve` over ten instances that need nothing, with its command server."""
    with site(10) as made, serving_commands(made) as process:
        both = [process.pid, *children(process.pid)]
        assert len(both) == 2
        time.sleep(5)
        before, began = sum(map(cpu_seconds, both)), time.monotonic()
        time.sleep(_SECONDS)
        used = (sum(map(cpu_seconds, both)) - before) / (time.monotonic() - began)
        own, loaded = map(own_megabytes, both)
    return [
        Row("idle controller with its command server, 10 instances: share of one core", used * 100, "%", 1.0),
        Row("idle controller with its command server, 10 instances: memory", own + loaded, "MB", 120.0),
        Row("of this the controller", own, "MB"),
    ]
