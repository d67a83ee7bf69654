"""A file that is changed behind the back of whoever relies on it."""

from __future__ import annotations

import os
from pathlib import Path


def change_file(file: Path) -> None:
    """Its last byte is another one; its size, inode and time of modification are what they were."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        (last,) = opened.read(1)
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
