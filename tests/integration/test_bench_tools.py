"""How `scripts/bench tools` asks machines and runs commands: real processes and connections on loopback."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.benchmarks.tools.answering import await_answers
from tests.support.benchmarks.tools.tool import all_at_once


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class Guest:
    """Answers with that status at an address of its own; the port is the one that `one` got."""

    def __init__(self, address: str, port: int, status: int) -> None:
        self.server = http.server.HTTPServer((address, port), Page)
        self.server.status = status  # type: ignore[attr-defined]
        self.port: int = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    """127.86.0.2 answers with 200, 127.86.0.3 with an error, and nobody listens at 127.86.0.4."""
    one = Guest("127.86.0.2", 0, 200)
    other = Guest("127.86.0.3", one.port, 503)
    try:
        yield one.port
    finally:
        one.close()
        other.close()


def test_only_a_page_counts_as_an_answer(port: int) -> None:
    addresses = ["127.86.0.2", "127.86.0.3", "127.86.0.4"]
    assert set(await_answers(2, 0.5, addresses, port)) == {"127.86.0.2"}


def test_asking_ends_with_the_last_answer_that_is_wanted(port: int) -> None:
    before = time.monotonic()
    found = await_answers(1, 60, ["127.86.0.2", "127.86.0.4"], port)
    assert before < found["127.86.0.2"] < time.monotonic() < before + 30


def test_a_service_that_keeps_silent_is_not_waited_for() -> None:
    with socket.create_server(("127.86.0.5", 0)) as silent:
        assert await_answers(1, 0.5, ["127.86.0.5"], silent.getsockname()[1]) == {}


@pytest.mark.parametrize(("commands", "status"), [(["true", "true"], 0), (["true", "false", "true"], 1)])
def test_commands_beside_each_other_fail_with_any_of_them(commands: list[str], status: int) -> None:
    assert subprocess.run(all_at_once(commands), check=False).returncode == status


INTERRUPTED = """\
import os, signal, time
from tests.support.benchmarks.tools.lab import lab

with lab() as made:
    print(made.root, flush=True)
    os.killpg(0, signal.SIGINT)
    time.sleep(60)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root")
def test_an_interrupted_run_leaves_nothing() -> None:
    """An interrupt from the terminal reaches every process of the run."""
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, start_new_session=True)
    root = Path(done.stdout.strip())
    assert done.returncode == -signal.SIGINT
    assert root.name.startswith("understudy-tools-")
    assert not root.exists()
    kept = [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if names(entry, str(root))]
    assert kept == []


def names(command_line: Path, text: str) -> bool:
    with contextlib.suppress(OSError):
        return text.encode() in command_line.read_bytes()
    return False
