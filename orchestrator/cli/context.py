"""What every command shares: the state directory, output, and errors in two lines."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.daemon.runtime import Runtime

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]
TimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--timeout", metavar="S", help="Give up waiting after that long (seconds, or 90s, 10min); exit 3."
    ),
]


class Choice:
    """Global options of this invocation."""

    state_dir: Path | None = None


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which the command line library would answer by itself."""

    words = "interrupted; what was declared is kept\n  (the next apply, or 'understudy serve', goes on)"


@contextlib.contextmanager
def stopped_means(words: str) -> Iterator[None]:
    """What the operator is told if the command is interrupted here."""
    try:
        yield
    except Stopped as stopped:
        stopped.words = words
        raise


def start_log(level: int) -> None:
    """The controller's log on stderr. Called twice, the first level stays."""
    import logging

    logging.basicConfig(
        level=level, format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )


def runtime() -> Runtime:
    """The installation of this invocation. Imported late: `--help` needs none of it."""
    from orchestrator.config.state_dir import default_state_dir
    from orchestrator.daemon.runtime import Runtime

    gc.freeze()  # what is loaded now stays
    gc.enable()
    return Runtime(Choice.state_dir or Path(default_state_dir()))


@contextlib.contextmanager
def opened() -> Iterator[Runtime]:
    """The installation, let go of at the end."""
    made = runtime()
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def opened_to_act() -> Iterator[Runtime]:
    """The same for what changes something. Raises Conflict while the store does not know what it should.

    What a wish is followed with is loaded before it is written: whoever carries it out hears of it the sooner.
    """
    import orchestrator.cli.progress
    import orchestrator.daemon.embedded  # noqa: F401

    with opened() as made:
        made.refuse_if_held()
        yield made


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str = "") -> None:
    """Plain line to stdout. What guests or operators wrote is never taken for markup."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def seconds(timeout: str | None) -> float | None:
    """`"90"`, `"90s"`, `"10min"` -> seconds. Raises SpecError."""
    if timeout is None:
        return None
    from orchestrator.models.units import parse_duration

    try:
        value = float(timeout) if timeout.replace(".", "", 1).isdigit() else parse_duration(timeout)
    except ValueError as error:
        raise SpecError(f"--timeout: {error}") from error
    if value <= 0:
        raise SpecError(f"--timeout: {timeout!r} is not a positive time")
    return value
