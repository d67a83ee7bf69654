"""Formats of other hypervisors: recognised by their marks, and refused where they would make us open another file.

Layouts: Virtual Hard Disk Image Format Specification (2006), [MS-VHDX] 2.2, VMware Virtual Disk Format 5.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ImageRefused

_SECTOR = 512
_FRONT = 2**20  # a VMDK's embedded descriptor is small, and lies in front of its data
_VHD_COOKIE = b"conectix"
_VHD_DIFFERENCING = 4
_FLATTEN = "make it one self-contained file first: qemu-img convert -O qcow2 IN OUT, on the machine it came from"


@dataclass(frozen=True)
class Ends:
    """The first MiB and the last sector of a file: where formats have their marks."""

    front: bytes
    last: bytes


def read_ends(file: Path) -> Ends:
    with file.open("rb") as handle:
        front = handle.read(_FRONT)
        handle.seek(max(file.stat().st_size - _SECTOR, 0))
        return Ends(front, handle.read(_SECTOR))


def find_foreign_kind(ends: Ends) -> str | None:
    """qemu-img's name of the format (vpc, vhdx, vmdk); None for anything else."""
    if ends.front.startswith(b"vhdxfile"):
        return "vhdx"
    if ends.front.startswith((b"KDMV", b"COWD", b"# Disk Desc")):
        return "vmdk"
    # A fixed VHD is a raw disk with a footer; a dynamic one has a copy of it in front.
    is_vhd = ends.front.startswith(_VHD_COOKIE) or ends.last.startswith(_VHD_COOKIE)
    return "vpc" if is_vhd and not ends.front.startswith(b"QFI\xfb") else None


def refuse_foreign(ends: Ends, kind: str, shown: str) -> None:
    """Raises ImageRefused for what names another file, before qemu-img would open it."""
    if kind == "vmdk":
        _refuse_vmdk(ends.front, shown)
    if kind == "vpc":
        footer = ends.front[:_SECTOR] if ends.front.startswith(_VHD_COOKIE) else ends.last
        if len(footer) < _SECTOR:
            raise ImageRefused(f"{shown} is a VHD that is cut off", "copy it again")
        (disk_type,) = struct.unpack_from(">I", footer, 60)
        if disk_type == _VHD_DIFFERENCING:
            raise ImageRefused(f"{shown} is not self-contained: it is a differencing VHD", _FLATTEN)


def _refuse_vmdk(front: bytes, shown: str) -> None:
    """A descriptor lists files by name; a sparse file without a capacity is one that only carries a descriptor."""
    if len(front) < _SECTOR or not front.startswith(b"KDMV"):
        raise ImageRefused(f"{shown} is a VMDK descriptor, which keeps its data in other files", _FLATTEN)
    (capacity,) = struct.unpack_from("<Q", front, 12)
    if capacity == 0:
        raise ImageRefused(f"{shown} is a VMDK that keeps its data in other files", _FLATTEN)
    offset, sectors = struct.unpack_from("<QQ", front, 28)
    # qemu-img looks for the parent right behind the header, wherever the header says that the descriptor is.
    own, usual = front[offset * _SECTOR : (offset + sectors) * _SECTOR], front[_SECTOR : _SECTOR * 21]
    if b"parentFileNameHint" in own + usual:
        raise ImageRefused(f"{shown} is not self-contained: it is a snapshot of another VMDK", _FLATTEN)
