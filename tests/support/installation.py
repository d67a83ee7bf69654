"""A private installation: own state directory, domain prefix and addresses, all removed at the end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 300
BASE = Path("/var/tmp")


class Failed(AssertionError):
    """A command ended otherwise than the test expected; shows what it said."""


class Installation:
    """Drives the `understudy` command as an operator would. `enter` puts commands into another namespace."""

    def __init__(self, root: Path, net: str, enter: Sequence[str] = (), uri: str = "qemu:///system") -> None:
        self.root = root
        self.net = net  # such as 127.101.7
        self.prefix = f"ust{secrets.token_hex(3)}"
        self.uri = uri
        self.enter = list(enter)
        self.endpoint = f"{net}.1"
        self.python = sys.executable

    def configure(self, network: str = "", limits: str = 'retry_pause = "1s"\n', hosts: str = "") -> None:
        """Write config.toml; `limits`, `network` and `hosts` are TOML."""
        network = network or f'[network]\nrange = "{self.net}.0/24"\n'
        hosts = hosts or f'[[hosts]]\nuri = "{self.uri}"\naccelerator = "tcg"\n'
        text = f'prefix = "{self.prefix}"\n{hosts}\n{network}\n[limits]\n{limits}\n'
        (self.root / "config.toml").write_text(text, encoding="utf-8")

    # ---- commands ----------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        return [*self.enter, self.python, "-m", "orchestrator", "--state-dir", str(self.root), *arguments]

    def run(self, *arguments: str, expect: int = 0, seconds: float = COMMAND_SECONDS) -> str:
        """Output of `understudy ARGUMENTS`. Raises Failed if its exit status is not `expect`."""
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != expect:
            raise Failed(f"{arguments} ended with {done.returncode}, not {expect}:\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        done = subprocess.run(
            self.command(*arguments, "--json"),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{arguments}: {done.stderr}")
        return json.loads(done.stdout)

    def json_lines(self, *arguments: str) -> list[Any]:
        """Of commands that print one object a line."""
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines()]

    def status(self, name: str = "web") -> dict[str, Any]:
        return dict(self.json("status", name))

    def members(self, role: str, name: str = "web") -> list[dict[str, Any]]:
        return [row for row in self.status(name)["members"] if row["role"] == role]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on; the caller ends it (see `ended`)."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[str]]:
        """`understudy serve`, running; ended by SIGTERM, which must be clean."""
        process = self.start("serve")
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            while line and "controller is running" not in line:
                line = process.stdout.readline()
            assert line, "serve ended before it ran"
            # Its log must not fill the pipe.
            reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=60)
            reader.wait(timeout=10)
            assert process.stdout is not None
            process.stdout.close()
        assert status == 0

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def fetch(self, path: str = "/", port: int = 8080, seconds: float = 5) -> str:
        """Body of one request through the balancer; empty if it failed."""
        url = f"http://{self.endpoint}:{port}{path}"
        done = subprocess.run(
            [*self.enter, "curl", "-sf", "-m", str(seconds), url], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    # ---- cleaning up -------------------------------------------------------------------------------------

    def domains(self) -> list[str]:
        done = self._virsh("list", "--all", "--name")
        return [name for name in done.split() if name.startswith(f"{self.prefix}-")]

    def volumes(self) -> list[str]:
        if self.prefix not in self._virsh("pool-list", "--all", "--name").split():
            return []
        lines = self._virsh("vol-list", self.prefix).splitlines()
        return [line.split()[0] for line in lines if line.strip() and line.split()[0] != "consoles"]

    def logs(self) -> list[str]:
        """Names of what consoles have shown, on hosts of this machine."""
        return sorted(path.name for path in self.root.glob("volumes*/consoles/*"))

    def processes(self) -> list[str]:
        """Command lines of processes that mention this installation."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    if f"guest={self.prefix}-" in words or f"{self.root}/haproxy" in words:
                        found.append(words)
        return found

    def _virsh(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.enter, "virsh", "-q", "-c", self.uri, *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout

    def remove(self) -> None:
        """Everything, whatever state it is in."""
        for domain in self.domains():
            self._virsh("destroy", domain)
            self._virsh("undefine", domain, "--managed-save")
        self._virsh("pool-destroy", self.prefix)
        self._virsh("pool-undefine", self.prefix)
        for name in ("haproxy.pid", "haproxy.superseded"):
            with contextlib.suppress(OSError, ValueError):
                for word in (self.root / "haproxy" / name).read_text(encoding="utf-8").split():
                    os.kill(int(word), signal.SIGTERM)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def installation(enter: Sequence[str] = (), uri: str = "qemu:///system") -> Iterator[Installation]:
    """A configured installation below /var/tmp (QEMU's user must be able to reach it)."""
    root = BASE / f"understudy-test-{secrets.token_hex(4)}"
    root.mkdir(mode=0o711)
    net = f"127.{secrets.randbelow(90) + 100}.{secrets.randbelow(250) + 1}"
    made = Installation(root, net, enter, uri)
    made.configure()
    try:
        yield made
    finally:
        made.remove()


def wait_until(happened: Callable[[], object], seconds: float, what: str) -> None:
    """Looks every 50 ms, half of the time at most: a question may be a command, and guests need processors, too.
    Raises Failed with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if happened():
            return
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(max(0.05, time.monotonic() - began))
