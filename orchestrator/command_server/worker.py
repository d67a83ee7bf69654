"""A command in a process forked for it, made like the process that it was typed into."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, TextIO

from orchestrator.cli import NO_PLUGINS
from orchestrator.command_server import wire


@dataclass(frozen=True)
class Request:
    """What a client wants run, with its four descriptors."""

    argv: list[str]
    environment: dict[str, str]
    umask: int
    ignored: list[int]  # signals
    streams: list[dict[str, Any]]
    descriptors: list[int]

    @classmethod
    def of(cls, message: Any, descriptors: list[int]) -> Request:
        """Raises KeyError and TypeError where it is not one."""
        return cls(
            list(message["argv"]),
            dict(message["environment"]),
            int(message["umask"]),
            [int(number) for number in message["ignored"]],
            list(message["streams"]),
            descriptors,
        )

    def run(self) -> None:
        """As `understudy` does; ends in SystemExit, or returns when the command is done."""
        from orchestrator.cli.main import main

        self._become()
        main()

    def _become(self) -> None:
        os.setpgid(0, 0)  # what is meant for one command and its processes is not meant for others
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)
        *standard, here = self.descriptors
        os.fchdir(here)
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        wire.close_all(self.descriptors)
        os.umask(self.umask)
        os.environ.clear()
        os.environ.update(self.environment)
        os.environ.setdefault(*NO_PLUGINS)
        time.tzset()
        sys.argv[:] = self.argv
        sys.stdin = _stream(0, "r", self.streams[0])
        sys.stdout = _stream(1, "w", self.streams[1])
        sys.stderr = _stream(2, "w", self.streams[2])


def _stream(descriptor: int, mode: str, nature: dict[str, Any]) -> TextIO:
    raw = io.FileIO(descriptor, mode, closefd=False)
    buffer: Any = raw
    if not nature["write_through"]:
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=nature["encoding"],
        errors=nature["errors"],
        newline="\n",
        line_buffering=nature["line_buffering"],
        write_through=nature["write_through"],
    )
