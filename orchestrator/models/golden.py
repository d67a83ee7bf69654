"""Golden images, and what is remembered of those that could not be taken, or of which no fork came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class GoldenTrouble:
    """Of one model on one host: how often in a row, when last (epoch seconds), and why. No failure at all: it was
    only too early."""

    failures: int
    at: float
    reason: str


@dataclass(frozen=True)
class GoldenImage:
    """One that is complete. `image`: sha256 of the base disk beneath, `source` the domain it was taken of. `disk`
    and `memory` are bytes on the host's disk; `created_at` is seconds since the epoch."""

    model: str
    image: str
    source: str
    disk: int
    memory: int
    created_at: float


GoldenTroubles = Mapping[tuple[str, str], GoldenTrouble]
"""(host, model) -> what went wrong there; nothing where all went well."""
