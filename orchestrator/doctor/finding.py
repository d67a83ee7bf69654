"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check's outcome: `level` is ok, warning or fault; `fix` is what to type or change."""

    name: str
    level: str
    text: str
    fix: str = ""
