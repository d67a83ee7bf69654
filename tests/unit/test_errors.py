"""Errors: the tree in the docstring is the tree in the code, and each ends a command with its status."""

from __future__ import annotations

import inspect
import re

from orchestrator import errors
from orchestrator.errors import UnderstudyError

USAGE = {"SpecError", "NotFound", "Conflict", "ImageRefused"}


def classes() -> dict[str, type[UnderstudyError]]:
    return {
        name: one for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, UnderstudyError)
    }


def drawn() -> dict[str, str]:
    """Class -> parent, as the docstring draws them."""
    parents: dict[str, str] = {}
    path = ["UnderstudyError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│ ]*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            path = [*path[:depth], match[2]]
            parents[match[2]] = path[depth - 1]
    return parents


def test_the_docstring_draws_every_error_below_its_parent() -> None:
    real = {name: one.__bases__[0].__name__ for name, one in classes().items() if one is not UnderstudyError}
    assert drawn() == real


def test_wrong_use_ends_with_2_a_timeout_with_3_and_everything_else_with_1() -> None:
    codes = {name: one("x").exit_code for name, one in classes().items()}
    assert {name for name, code in codes.items() if code == 2} == USAGE
    assert {name for name, code in codes.items() if code == 3} == {"TimedOut"}
    assert set(codes.values()) == {1, 2, 3}


def test_the_fix_is_the_second_line() -> None:
    error = UnderstudyError("cannot start 'web-3': image 'micro:1' is missing", "run: understudy image build")
    assert str(error).splitlines() == [
        "cannot start 'web-3': image 'micro:1' is missing",
        "  (run: understudy image build)",
    ]
    assert str(UnderstudyError("it failed")) == "it failed"
