"""What a volume in the pool is, by what was written at its very beginning. No guest can write there: its bytes lie
further inside. The format is never guessed from it: what is not as we make it is not ours."""

from __future__ import annotations

from pathlib import Path

from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.drivers.qcow2 import FRONT, HeaderNames, first_table, is_qcow2, read_header_names, read_owner


class DiskContents:
    """Of one volume, as it is now. Raises HostError."""

    def __init__(self, volumes: Volumes, name: str) -> None:
        self._volumes = volumes
        self._name = name
        self._front = volumes.read_at(name, 0, FRONT)
        self._names = read_header_names(self._front) if is_qcow2(self._front) else HeaderNames()

    @property
    def stands_alone(self) -> bool:
        """A qcow2 disk whose content is in no other file."""
        return is_qcow2(self._front) and self._names == HeaderNames()

    @property
    def owner(self) -> str:
        """Empty if it does not say whose it is."""
        return read_owner(self._front)

    @property
    def base(self) -> str:
        """Name of the file it is written over; empty if there is none."""
        return Path(self._names.backing or "").name

    def is_blank(self) -> bool:
        """There is nothing in it to lose: a creation that was cut short leaves such."""
        if not self._front.strip(b"\0"):
            return len(self._front) < FRONT
        if not self.stands_alone:
            return False
        offset, size = first_table(self._front)
        return not self._volumes.read_at(self._name, offset, size).strip(b"\0")
