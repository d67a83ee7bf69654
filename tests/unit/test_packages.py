"""Bounds, what was tested as the lowest, and what CI runs with say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return {usual(made.name): made for made in map(Requirement, texts)}


def usual(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {usual(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("file", ["ci.txt", "lowest.txt"])
def test_what_is_pinned_is_allowed(file: str) -> None:
    wanted = declared()
    for name, version in pinned(file).items():
        assert name not in wanted or version in wanted[name].specifier, name


def test_ci_pins_everything_that_is_declared() -> None:
    assert declared().keys() <= pinned("ci.txt").keys()


def test_every_lower_bound_of_the_product_was_tested_as_it_is_written() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = pinned("lowest.txt")
    for text in project["dependencies"]:
        made = Requirement(text)
        (bound,) = made.specifier
        assert (bound.operator, Version(bound.version)) == (">=", lowest[usual(made.name)]), text
