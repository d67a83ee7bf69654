"""Runs qemu-img within bounds of memory, time and space, and hears how far it is."""

from __future__ import annotations

import os
import re
import resource
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from orchestrator.errors import UnderstudyError

OnPercent = Callable[[float], None]

_ADDRESS_SPACE = 2**31  # bytes of memory that qemu-img may use
_GRACE = 10  # seconds of processor time between the signal that can be told from others and the one that ends all
_SLOWEST = 10 * 2**20  # bytes per second below which a disk is not waited for
_PROGRESS = re.compile(r"\s*\((\d+(?:\.\d+)?)/100%\)\r?")


@dataclass(frozen=True)
class Bounds:
    """`doing`: such as "checking disk.raw". `seconds` count on the wall and on the processors, each by itself.

    `room`: bytes that it may write into a file; None: whatever it wants.
    """

    doing: str
    seconds: int
    processor_seconds: int | None = None
    room: int | None = None

    def limits(self) -> list[str]:
        """What goes before the name of qemu-img: hostile images ask for much. None is looked at without limits."""
        if not shutil.which("prlimit"):
            raise UnderstudyError(
                "prlimit is not installed, and without limits no image is inspected", "apt-get install util-linux"
            )
        processor = self.processor_seconds or self.seconds
        cpu = f"{_allowed(resource.RLIMIT_CPU, processor)}:{_allowed(resource.RLIMIT_CPU, processor + _GRACE)}"
        room = [] if self.room is None else [f"--fsize={_allowed(resource.RLIMIT_FSIZE, self.room)}"]
        return ["prlimit", f"--as={_allowed(resource.RLIMIT_AS, _ADDRESS_SPACE)}", f"--cpu={cpu}", *room]


@dataclass(frozen=True)
class Done:
    """How it ended. `words` are its last ones about a failure."""

    status: int
    output: str
    words: str


def _allowed(kind: int, wanted: int) -> int:
    """No more than this process itself may have: a limit cannot be raised."""
    most = resource.getrlimit(kind)[1]
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


def bounds_for(doing: str, size: int, least: int) -> Bounds:
    """Time for `size` bytes on the slowest disk that is waited for, and `least` seconds for the rest."""
    return Bounds(doing, least + size // _SLOWEST)


def run_qemu_img(arguments: list[str], bounds: Bounds, on_percent: OnPercent = lambda _: None) -> Done:
    """Raises UnderstudyError if it takes too long, or is not there. `on_percent` hears what `-p` tells."""
    command = [*_with_us(), *bounds.limits(), _tool(), *arguments]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            output = _listen(process, bounds, on_percent)
        except BaseException:
            process.kill()
            raise
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if process.returncode == -signal.SIGXCPU:
        raise _too_slow(bounds.doing, f"{bounds.processor_seconds or bounds.seconds} s of processor time")
    words = said.removeprefix("qemu-img: ")[-500:] or f"qemu-img exit status {process.returncode}"
    return Done(process.returncode, _PROGRESS.sub("", output).strip(), words)


def _listen(process: subprocess.Popen[bytes], bounds: Bounds, on_percent: OnPercent) -> str:
    """All that it says until it ends."""
    assert process.stdout is not None
    deadline = time.monotonic() + bounds.seconds
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise _too_slow(bounds.doing, f"{bounds.seconds} s")
            piece = _read(process.stdout)
            if not piece:
                break
            output += piece
            if told := _PROGRESS.findall(piece.decode(errors="replace")):
                on_percent(float(told[-1]))
    try:
        process.wait(max(deadline - time.monotonic(), 1))
    except subprocess.TimeoutExpired as error:
        raise _too_slow(bounds.doing, f"{bounds.seconds} s") from error
    return output.decode(errors="replace")


def _read(stream: IO[bytes]) -> bytes:
    return os.read(stream.fileno(), 2**16)


def _too_slow(doing: str, limit: str) -> UnderstudyError:
    return UnderstudyError(
        f"{doing} took longer than {limit}",
        "give the command again when this machine and its disks have less to do; a compressed image is read "
        "sooner if it is written out first: qemu-img convert -O qcow2 IN OUT",
    )


def _with_us() -> list[str]:
    """A tool that outlives a killed command would go on with files that the next one is at."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _tool() -> str:
    found = shutil.which("qemu-img")
    if found is None:
        raise UnderstudyError("qemu-img is not installed", "apt-get install qemu-utils")
    return found
