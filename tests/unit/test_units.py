"""Sizes and durations: what operators write, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
    share_of,
)
from tests.unit.examples import many

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1B", 1),
        ("512MiB", 512 * MIB),
        ("1.5GiB", 1536 * MIB),
        (" 2 TiB ", 2 * TIB),
        ("0.5KiB", 512),
    ],
)
def test_a_size_is_a_number_with_a_binary_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1s", 1), ("10min", 600), ("1.5min", 90), ("2h", 7200), ("1d", 86400), ("0s", 0)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [512, 1.5, True, None, "512", "", "MiB", "-1MiB", "1e3B", "1,5GiB", [1], {}])
def test_a_number_without_its_unit_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match="needs a number and a unit") as size:
        parse_size(value)
    assert repr(value) in str(size.value)
    assert str(size.value).endswith("for example 512MiB")
    with pytest.raises(ValueError, match="needs a number and a unit") as duration:
        parse_duration(value)
    assert str(duration.value).endswith("for example 10min")


@pytest.mark.parametrize("text", ["1MB", "1gib", "1 GB", "4G", "1ms"])
def test_an_unknown_unit_of_size_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown unit .* \(known: B, KiB, MiB, GiB, TiB\)"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1m", "1sec", "1S", "1MiB"])
def test_an_unknown_unit_of_duration_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown unit .* \(known: ms, s, min, h, d\)"):
        parse_duration(text)


def test_a_part_of_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of bytes"):
        parse_size("0.3B")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536 * MIB, "1536MiB"), (TIB, "1TiB")]
)
def test_a_size_is_written_with_the_largest_unit_that_divides_it(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (90.0, "90s"),
        (600.0, "10min"),
        (7200.0, "2h"),
        (86400.0, "1d"),
    ],
)
def test_a_duration_is_written_with_the_largest_unit_that_divides_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@many
@given(st.integers(0, 2**53))
def test_a_size_survives_being_written_and_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


@many
@given(st.integers(0, 2**20), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_a_size_as_written_survives_being_read_and_written(number: int, unit: str) -> None:
    size = parse_size(f"{number}{unit}")
    assert parse_size(format_size(size)) == size


@many
@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "min", "h", "d"]))
def test_a_whole_duration_survives_being_written_and_read(number: int, unit: str) -> None:
    seconds = parse_duration(f"{number}{unit}")
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("share", [0, 1, 100_000, "0%", "25%", "100%"])
def test_a_share_is_a_count_or_a_percentage_as_written(share: int | str) -> None:
    assert parse_share(share) == share


@pytest.mark.parametrize("share", [-1, 1.5, True, "1", "101%", "2.5%", "-1%", "many", None, 100_001])
def test_anything_else_is_no_share(share: object) -> None:
    with pytest.raises(ValueError, match="neither a number from 0 on nor a percentage"):
        parse_share(share)


@many
@given(st.integers(0, 100), st.integers(0, 1000))
def test_a_percentage_is_rounded_by_less_than_one(percent: int, whole: int) -> None:
    up, down = share_of(f"{percent}%", whole, round_up=True), share_of(f"{percent}%", whole, round_up=False)
    assert down <= percent * whole / 100 <= up
    assert up - down <= 1
    assert (up == down) == (percent * whole % 100 == 0)
