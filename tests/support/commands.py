"""The command line as a process of its own, and tools that stand before the real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def start_image_command(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """`understudy image ...` in the state directory `root`."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "--state-dir", str(root), "image", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, tool: str, script: str) -> None:
    """`tool` is this script from now on; $REAL is the real one."""
    file = directory / "bin" / tool
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\nREAL={shutil.which(tool)}\n{script}\n", encoding="utf-8")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")
