"""State directories for the command line against libvirt's driver for tests: nothing is booted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CONFIG = """\
prefix = "understudy-PURPOSE-test"
[[hosts]]
name = "local"
uri = "test:///default"
accelerator = "tcg"
"""


@dataclass(frozen=True)
class PaperSite:
    """A state directory in `root`, with one host."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def store(self) -> Path:
        return self.state / "private" / "store.sqlite"

    @property
    def config(self) -> Path:
        return self.state / "config.toml"

    def prepare(self, purpose: str, image: str) -> None:
        """With an image of a boot sector, of which nothing boots."""
        self.state.mkdir()
        self.config.write_text(CONFIG.replace("PURPOSE", purpose), encoding="utf-8")
        disk = bytearray(2**20)
        disk[510:512] = b"\x55\xaa"
        (self.root / "disk.raw").write_bytes(disk)
        self.run("image", "add", image, str(self.root / "disk.raw"))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", "--state-dir", str(self.state), *arguments]

    def run(self, *arguments: str, expect: int = 0) -> str:
        """What it said on both streams."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr
