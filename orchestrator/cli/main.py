"""`understudy`: the commands, put together. Exit 0 done, 1 failed, 2 wrong use or bad spec, 3 timed out
(`audit`: 4 where it could not look everywhere)."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli.catalog import Catalog, new_app
from orchestrator.cli.context import Choice, Stopped, start_log
from orchestrator.errors import UnderstudyError

app = new_app(
    name="understudy",
    cls=Catalog,
    no_args_is_help=True,
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


# A full disk, rights, a file system that went bad or became read-only: no mistake of ours to trace back.
_OF_THIS_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE}
)


def main() -> None:
    """Entry point of the `understudy` command."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _stop)
    sys.unraisablehook = _stop_again
    try:
        try:
            app(prog_name="understudy")
        finally:
            _flush()
    except UnderstudyError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except Stopped as stopped:
        _complain(stopped.words)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)  # whoever read has enough
    except OSError as error:
        if error.errno not in _OF_THIS_MACHINE:
            raise
        logging.getLogger("understudy").debug("the command ended so", exc_info=True)
        where = f": {error.filename}" if error.filename else ""
        _complain(
            f"{error.strerror}{where}\n  (mend that, then give the command again; see where: understudy -v ...)"
        )
        sys.exit(1)
    finally:
        gc.freeze()  # the memory goes as a whole: nothing in it is looked through once more


def _flush() -> None:
    """What is not written yet, while it can still be told that it cannot be."""
    if sys.stdout is None:  # whoever started us has closed it
        return
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter would try once more at its end, and end with 120.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


def _stop_again(lost: sys.UnraisableHookArgs) -> None:
    """A signal may come while an object is being finalized, where Python drops what is raised."""
    if issubclass(lost.exc_type, Stopped):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(lost)


def _complain(text: str) -> None:
    sys.stderr.write(f"understudy: {text}\n")
