"""Durations that cannot be meant: a slip of the unit is refused in files, with the span and a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.ledger import Ledger
from orchestrator.config.scaleset_file import load_scale_sets
from orchestrator.errors import SpecError
from orchestrator.models.durations import find_implausible_durations
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.units import DURATION_UNITS
from orchestrator.service import declare
from tests.builders import make_set, make_spec
from tests.unit.examples import many
from tests.unit.storage import Storage
from tests.unit.test_service import around

SPANS = {
    "setup.timeout": ("5s", "1d"),
    "readiness.0.interval": ("100ms", "5min"),
    "scale_in.drain_timeout": ("0s", "1d"),
    "repair.grace": ("0s", "7d"),
    "hooks.timeout": ("1s", "1h"),
}


def document(path: str, duration: str) -> dict[str, Any]:
    if path.startswith("readiness"):
        return {"readiness": [{"tcp": {"port": 80}, "interval": duration}]}
    part, _, key = path.partition(".")
    return {part: {key: duration}}


def complaints(path: str, duration: str) -> list[str]:
    found = list(find_implausible_durations(document(path, duration)))
    assert all(".".join(map(str, where)) == path for where, _ in found)
    return [text for _, text in found]


@pytest.mark.parametrize(
    ("path", "duration", "question"),
    [
        ("setup.timeout", "10ms", "; did you mean 10min?"),
        ("setup.timeout", "4s", "; did you mean 4min?"),
        ("setup.timeout", "2d", "; did you mean 2min?"),
        ("setup.timeout", "0.9s", "; did you mean 0.9h?"),
        ("hooks.timeout", "30ms", "; did you mean 30s?"),
        ("hooks.timeout", "30d", "; did you mean 30s?"),
        ("hooks.timeout", "5000000d", ""),
        ("scale_in.drain_timeout", "300d", "; did you mean 300s?"),
        ("readiness.0.interval", "1ms", "; did you mean 1s?"),
        ("readiness.0.interval", " 1 h ", "; did you mean 1s?"),
        ("repair.grace", "8d", "; did you mean 8min?"),
    ],
)
def test_a_slip_of_the_unit_is_told_with_the_span_and_what_may_be_meant(
    path: str, duration: str, question: str
) -> None:
    shortest, longest = SPANS[path]
    assert complaints(path, duration) == [
        f"{path}: must be from {shortest} to {longest} (given: {duration!r}){question}"
    ]


@pytest.mark.parametrize("path", SPANS)
def test_both_ends_of_a_span_can_be_meant_and_so_can_the_default(path: str) -> None:
    assert [complaints(path, end) for end in SPANS[path]] == [[], []]
    assert list(find_implausible_durations(make_spec().model_dump(mode="json"))) == []


@many
@given(
    st.sampled_from(sorted(SPANS)),
    st.decimals(0, 10**6, places=2, allow_nan=False),
    st.sampled_from(sorted(DURATION_UNITS)),
)
def test_what_is_asked_for_is_never_refused_in_its_turn(path: str, number: Any, unit: str) -> None:
    try:
        ScaleSetSpec.model_validate({"name": "web", "image": "micro", **document(path, f"{number}{unit}")})
    except ValueError:
        return
    for text in complaints(path, f"{number}{unit}"):
        _, asks, meant = text.partition("; did you mean ")
        assert not asks or complaints(path, meant.removesuffix("?")) == []


def test_a_file_names_the_line_of_each(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("name: web\nimage: micro\nsetup:\n  timeout: 10ms\nhooks: {timeout: 30d}\n", encoding="utf-8")
    with pytest.raises(SpecError) as error:
        load_scale_sets(file)
    assert error.value.message == (
        f"{file}:4: setup.timeout: must be from 5s to 1d (given: '10ms'); did you mean 10min?\n"
        f"{file}:5: hooks.timeout: must be from 1s to 1h (given: '30d'); did you mean 30s?"
    )


def test_a_set_that_was_declared_before_there_were_spans_is_read_and_changed(
    storage: Storage, tmp_path: Path
) -> None:
    old = make_spec(setup={"timeout": "10ms"}, hooks={"timeout": "30d"})
    storage.declare(old)
    assert storage.store.snapshot().sets[0].spec == old
    declare.scale(storage.store, "web", 3, around())
    ledger = Ledger(tmp_path / "sets", tmp_path / "images")
    ledger.keep([make_set(old)])
    (copy,) = Ledger(tmp_path / "sets", tmp_path / "images").declarations()
    assert copy.spec == old


def test_the_schema_tells_the_spans() -> None:
    parts = ScaleSetSpec.model_json_schema()["$defs"]
    told = {
        f"{part}.{key}": value["description"]
        for part, shape in parts.items()
        for key, value in shape["properties"].items()
        if str(value.get("description", "")).startswith("from ")
    }
    assert told == {
        "SetupSpec.timeout": "from 5s to 1d",
        "Probe.interval": "from 100ms to 5min",
        "ScaleInSpec.drain_timeout": "from 0s to 1d",
        "RepairSpec.grace": "from 0s to 7d",
        "HooksSpec.timeout": "from 1s to 1h",
    }
