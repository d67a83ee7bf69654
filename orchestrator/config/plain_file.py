"""Files that an operator names: plain ones, read without waiting for anybody."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.errors import SpecError


def read_plain_file(file: Path, limit: int, what: str) -> tuple[bytes, int]:
    """At most one byte more than `limit` of it, and its mode (permission bits). `what` names it in errors. Raises
    SpecError if it cannot be read or is no plain file: a pipe with nobody behind it would be waited for."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            content = os.read(descriptor, limit + 1) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {what} {file}: {getattr(error, 'strerror', error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise SpecError(f"{what} {file} is not a plain file")
    return content, stat.S_IMODE(status.st_mode)
