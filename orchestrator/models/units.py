"""Sizes and durations as operators write them: `512MiB`, `10min`.

A bare number is refused: it says nothing about its unit, and the wrong guess is a factor of 1024 or 60.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_SIZE_FACTORS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}  # seconds
_LONGEST_MS = 10**15
_LARGEST = 2**80  # bytes
_MOST = 100_000  # machines of one set
_PERCENT = re.compile(r"^([0-9]{1,3})%$")
_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*$")


def parse_size(value: object) -> int:
    """`"512MiB"` -> bytes. Raises ValueError naming the accepted units."""
    number, unit = _split(value, _SIZE_FACTORS, "512MiB")
    size = number * _SIZE_FACTORS[unit]
    if not size < _LARGEST:
        raise ValueError(f"{value!r} is more than any disk or memory holds")
    if size != int(size):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Bytes -> the shortest exact form that `parse_size` reads back."""
    for unit in reversed(_SIZE_FACTORS):
        if size and size % _SIZE_FACTORS[unit] == 0:
            return f"{size // _SIZE_FACTORS[unit]}{unit}"
    return f"{size}B"


def parse_duration(value: object) -> float:
    """`"10min"` -> seconds, in whole milliseconds. Raises ValueError naming the accepted units."""
    number, unit = _split(value, DURATION_UNITS, "10min")
    milliseconds = number * DURATION_UNITS[unit] * 1000
    if not milliseconds <= _LONGEST_MS:
        raise ValueError(f"{value!r} is longer than anybody waits")
    if 0 < milliseconds < 1:
        raise ValueError(f"{value!r} is shorter than a millisecond")
    return round(milliseconds) / 1000


def format_duration(seconds: float) -> str:
    """Seconds -> the largest unit that divides them, as `parse_duration` reads it back."""
    if seconds < 1 or seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    for unit in ("d", "h", "min"):
        if seconds % DURATION_UNITS[unit] == 0:
            return f"{int(seconds // DURATION_UNITS[unit])}{unit}"
    return f"{int(seconds)}s"


def parse_percent(value: object) -> int:
    """`"20%"` -> 20. Raises ValueError for anything but whole percents from 1 to 100."""
    match = _PERCENT.match(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[1]) <= 100:
        raise ValueError(f"{value!r} is no percentage from 1% to 100%, for example 20%")
    return int(match[1])


def parse_share(value: object) -> int | str:
    """A count, or percent of one, such as `2` or `"25%"`, as written. Raises ValueError for anything else."""
    if isinstance(value, str) and (match := _PERCENT.match(value)) and int(match[1]) <= 100:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    raise ValueError(f"{value!r} is neither a number from 0 on nor a percentage up to 100%, for example 1 or 25%")


def share_of(share: int | str, whole: int, round_up: bool) -> int:
    """`share` of `whole` as a whole number: 25% of 10 is 3 rounded up, 2 rounded down."""
    if isinstance(share, int):
        return share
    hundredths = int(share.removesuffix("%")) * whole
    return -(-hundredths // 100) if round_up else hundredths // 100


def _split(value: object, factors: dict[str, int] | dict[str, float], example: str) -> tuple[float, str]:
    units = ", ".join(factors)
    match = _QUANTITY.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} needs a number and a unit ({units}), for example {example}")
    if match[2] not in factors:
        raise ValueError(f"{value!r} has the unknown unit {match[2]!r} (known: {units})")
    return float(match[1]), match[2]


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*(B|KiB|MiB|GiB|TiB)$"}),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*(ms|s|min|h|d)$"}),
]
Percent = Annotated[
    int,
    BeforeValidator(parse_percent),
    PlainSerializer(lambda share: f"{share}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^(100|[1-9][0-9]?)%$"}),
]
Share = Annotated[
    int | str,
    BeforeValidator(parse_share),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _MOST},
                {"type": "string", "pattern": "^(100|[0-9]{1,2})%$"},
            ]
        }
    ),
]
