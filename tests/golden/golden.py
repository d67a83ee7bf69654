"""Golden files: what is rendered, kept as files. `UNDERSTUDY_REGENERATE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

FILES = Path(__file__).parent / "files"
SWITCH = "UNDERSTUDY_REGENERATE_GOLDEN"


def assert_golden(name: str, text: str) -> None:
    """The text is that of `files/name`, to the byte. Read the difference before you regenerate."""
    file = FILES / name
    if os.environ.get(SWITCH):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
    assert file.exists(), f"{file} is missing: run the tests once with {SWITCH}=1, and read what it wrote"
    assert text == file.read_bytes().decode(), f"{name} differs; {SWITCH}=1 writes it anew"
