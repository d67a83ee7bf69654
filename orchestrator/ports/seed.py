"""Answer files on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class SeedWriter(Protocol):
    def write(self, label: str, files: Mapping[str, bytes]) -> bytes:
        """An ISO 9660 image with Joliet and Rock Ridge names, volume label `label`."""
