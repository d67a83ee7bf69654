"""How long things may sensibly take: a span for each duration of a scale set, by which a slip of its unit is seen.

Only files are held to the spans. What is recorded may be of a version that knew none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from orchestrator.models.units import DURATION_UNITS, Duration, parse_duration

Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Span:
    """Durations as operators write them. `usual` is the default."""

    shortest: str
    longest: str
    usual: str

    def __str__(self) -> str:
        return f"from {self.shortest} to {self.longest}"

    def has(self, seconds: float) -> bool:
        return parse_duration(self.shortest) <= seconds <= parse_duration(self.longest)


SETUP_TIMEOUT = Span("5s", "1d", "10min")
PROBE_INTERVAL = Span("100ms", "5min", "1s")
DRAIN_TIMEOUT = Span("0s", "1d", "30s")
REPAIR_GRACE = Span("0s", "7d", "5min")
HOOK_TIMEOUT = Span("1s", "1h", "30s")

SetupTimeout = Annotated[Duration, Field(gt=0, description=str(SETUP_TIMEOUT))]
ProbeInterval = Annotated[Duration, Field(gt=0, description=str(PROBE_INTERVAL))]
DrainTimeout = Annotated[Duration, Field(ge=0, description=str(DRAIN_TIMEOUT))]
RepairGrace = Annotated[Duration, Field(ge=0, description=str(REPAIR_GRACE))]
HookTimeout = Annotated[Duration, Field(gt=0, description=str(HOOK_TIMEOUT))]

_SPANS = {
    ("setup", "timeout"): SETUP_TIMEOUT,
    ("scale_in", "drain_timeout"): DRAIN_TIMEOUT,
    ("repair", "grace"): REPAIR_GRACE,
    ("hooks", "timeout"): HOOK_TIMEOUT,
}


def find_implausible_durations(document: Mapping[str, Any]) -> Iterator[tuple[Where, str]]:
    """(where, complaint) of each duration of a valid document that is too short or too long to be meant."""
    placed: list[tuple[Where, Any, Span]] = [
        (where, document.get(where[0], {}).get(where[1]), span) for where, span in _SPANS.items()
    ]
    placed += [
        (("readiness", number, "interval"), probe.get("interval"), PROBE_INTERVAL)
        for number, probe in enumerate(document.get("readiness", ()))
    ]
    for where, given, span in placed:
        if given is not None and not span.has(parse_duration(given)):
            path = ".".join(str(part) for part in where)
            yield where, f"{path}: must be {span} (given: {given!r}){_question(given, span)}"


def _question(given: str, span: Span) -> str:
    """After the same number with the unit that brings it nearest to the default, if there is one."""
    number, usual = re.sub("[A-Za-z ]", "", given), parse_duration(span.usual)
    meant = {number + unit: float(number) * factor for unit, factor in DURATION_UNITS.items()}
    possible = [text for text, seconds in meant.items() if seconds and span.has(seconds)]
    if not possible:
        return ""
    return f"; did you mean {min(possible, key=lambda text: abs(math.log(meant[text] / usual)))}?"
