"""`understudy`: the commands, put together. Exit 0 done, 1 failed, 2 wrong use or bad spec, 3 timed out."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import access, audit, cost, host, images, instances, sets, view
from orchestrator.cli.context import Choice, Stopped, start_log
from orchestrator.errors import UnderstudyError

app = typer.Typer(
    name="understudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Scale sets, standby pools and self-healing for virtual machines on libvirt/QEMU.",
)


@app.callback(invoke_without_command=True)
def options(
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", envvar="UNDERSTUDY_STATE_DIR", help="Directory of the installation."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more in the log.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Options that come before the command."""
    if version:
        typer.echo(f"understudy {__version__}")
        raise typer.Exit()
    Choice.state_dir = state_dir
    if verbose:
        start_log(logging.DEBUG)


_COMMANDS: tuple[Callable[..., None], ...] = (
    sets.apply,
    view.status,
    sets.scale,
    sets.pool,
    instances.reimage,
    instances.redeploy,
    instances.restart,
    instances.stop,
    instances.start,
    instances.remove,
    sets.delete,
    view.events,
    access.ssh,
    access.console,
    cost.cost,
    audit.audit,
    view.schema,
    host.serve,
)

app.command()(host.doctor)
app.add_typer(images.app, name="image")
for command in _COMMANDS:
    app.command()(command)


def main() -> None:
    """Entry point of the `understudy` command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except UnderstudyError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except Stopped as stopped:
        _complain(stopped.words)
        sys.exit(130)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


def _complain(text: str) -> None:
    sys.stderr.write(f"understudy: {text}\n")
