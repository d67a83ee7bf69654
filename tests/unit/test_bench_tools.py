"""What `scripts/bench tools` makes of what it measured."""

from __future__ import annotations

from tests.support.bench import line_of
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.tools.race import Round, Times, rows_of


def turn(machines: int, **seconds: float) -> Round:
    """Answers take twice as long as starts, commands three times."""
    return Round(machines, {name: Times(value, 2 * value, 3 * value) for name, value in seconds.items()})


def values(rows: list[Row]) -> dict[str, float | None]:
    return {row.what: row.value for row in rows}


def test_seconds_are_medians_and_ratios_are_of_one_turn() -> None:
    rounds = [turn(1, ours=1.0, other=2.0), turn(1, ours=3.0, other=12.0), turn(1, ours=2.0, other=2.0)]
    assert values(rows_of(rounds, ["ours", "other"], {}, ["ours"])) == {
        "ours, 1 machine: all started": 2.0,
        "ours, 1 machine: all answer": 4.0,
        "ours, 1 machine: command over": 6.0,
        "other, 1 machine: all started": 2.0,
        "other, 1 machine: all answer": 4.0,
        "other, 1 machine: command over": 6.0,
        "ours : other, 1 machine: all started": 0.5,
        "ours : other, 1 machine: all answer": 0.5,
    }


def test_only_ratios_have_a_bound_and_slower_misses_it() -> None:
    rows = rows_of([turn(5, ours=2.5, other=2.0)], ["ours", "other"], {}, ["ours"])
    bounded = [row for row in rows if row.bound is not None]
    assert [(row.value, row.ok) for row in bounded] == [(1.25, False), (1.25, False)]
    assert {row.unit for row in bounded} == {"x"}


def test_a_second_way_of_ours_is_reported_and_held_to_nothing() -> None:
    rounds = [turn(1, ours=1.0, boots=6.0, other=2.0)]
    rows = rows_of(rounds, ["ours", "boots", "other"], {}, ["ours", "boots"])
    ratios = {row.what: (row.value, row.bound) for row in rows if row.unit == "x" and "started" in row.what}
    assert ratios == {
        "ours : other, 1 machine: all started": (0.5, 1.0),
        "boots : other, 1 machine: all started": (3.0, None),
    }


def test_numbers_of_machines_are_kept_apart() -> None:
    seen = values(rows_of([turn(1, ours=1.0), turn(5, ours=4.0)], ["ours"], {}, ["ours"]))
    assert (seen["ours, 1 machine: all started"], seen["ours, 5 machines: all started"]) == (1.0, 4.0)


def test_a_tool_that_failed_has_its_reason_and_no_number() -> None:
    rounds = [turn(1, ours=1.0, other=2.0), turn(1, ours=1.0)]
    rows = rows_of(rounds, ["ours", "other"], {"other": "cannot be installed: no such package"}, ["ours"])
    (said,) = [row for row in rows if "other" in row.what]
    assert (said.what, said.value) == ("other: not measured: cannot be installed: no such package", None)
    assert line_of(said) == said.what


def test_without_the_product_there_are_no_ratios() -> None:
    rows = rows_of([turn(1, other=2.0)], ["ours", "other"], {"ours": "refused"}, ["ours"])
    assert [row.what for row in rows if row.unit == "x"] == []


def test_what_has_a_bound_and_no_value_is_not_fine() -> None:
    assert not Row("nothing", None, "s", 1.0).ok
    assert Row("nothing", None, "s").ok
