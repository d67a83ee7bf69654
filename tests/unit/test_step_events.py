"""The output of a step as it is told: whole lines, in time, and never too much of it."""

from __future__ import annotations

import pytest

from orchestrator.apply.step_events import INTERVAL, LIMIT, PIECE, PIECES, StepOutput


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def output(told: list[str]) -> StepOutput:
    return StepOutput(told.append)


def test_the_first_line_is_told_at_once_and_further_ones_once_a_second(
    output: StepOutput, told: list[str]
) -> None:
    output.take(b"one\n", 0.0)
    output.take(b"two\n", 0.1)
    output.take(b"three\n", 0.2)
    assert told == ["one"]
    output.take(b"", INTERVAL)
    assert told == ["one", "two\nthree"]


def test_half_a_line_waits_for_its_end_unless_it_stays_alone(output: StepOutput, told: list[str]) -> None:
    output.take(b"one\ntw", 0.0)
    assert told == ["one"]
    output.take(b"o\nthr", INTERVAL)
    assert told == ["one", "two"]
    output.take(b"", 2 * INTERVAL)
    assert told == ["one", "two", "thr"]


def test_the_end_tells_the_rest_whatever_the_time(output: StepOutput, told: list[str]) -> None:
    output.take(b"one\ntwo\nthree", 0.0)
    output.end()
    assert told == ["one\ntwo", "three"]


def test_a_step_that_says_nothing_tells_nothing(output: StepOutput, told: list[str]) -> None:
    output.take(b"", 0.0)
    output.take(b"\n\r\n", 5.0)
    output.end()
    assert told == []


def test_what_would_move_a_terminals_cursor_is_taken_out_and_progress_bars_become_lines(
    output: StepOutput, told: list[str]
) -> None:
    output.take(b"10%\r20%\r\n\x1b[2Jbell\x07\xff\tend\n", 0.0)
    assert told == ["10%\n20%\n[2Jbell\ufffd end"]


def test_a_character_cut_by_the_network_is_put_together(output: StepOutput, told: list[str]) -> None:
    output.take("é".encode()[:1], 0.0)
    output.take("é".encode()[1:] + b"\n", 0.1)
    assert told == ["é"]


def test_long_output_comes_in_pieces_cut_between_lines(output: StepOutput, told: list[str]) -> None:
    lines = [f"line {number:04}" for number in range(500)]
    output.take("\n".join(lines).encode() + b"\n", 0.0)
    assert all(len(piece) <= PIECE for piece in told)
    assert "\n".join(told) == "\n".join(lines)


def test_of_what_comes_too_fast_the_newest_is_told_and_the_rest_counted(
    output: StepOutput, told: list[str]
) -> None:
    output.take(b"x" * (PIECE * PIECES), 0.0)
    del told[:]
    for _ in range(20):
        output.take(b"y" * PIECE, 0.1)
    output.take(b"", INTERVAL)
    assert told[0] == f"({PIECE * (20 - PIECES)} characters of output are left out here)"
    assert told[1:] == ["y" * PIECE] * PIECES


def test_no_more_than_the_limit_is_ever_told_and_it_says_so_once(output: StepOutput, told: list[str]) -> None:
    for second in range(100):
        output.take(b"z" * PIECE + b"\n", second * INTERVAL)
    output.end()
    assert sum(len(words) for words in told if not words.startswith("(")) == LIMIT
    assert [words for words in told if words.startswith("(")] == [
        "(more than 64 KiB of output: the rest is left out)"
    ]
    assert told[-1].startswith("(")
