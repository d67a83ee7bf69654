"""What a qcow2 file names, and where its compressed data ends.

qemu-img opens what a header names while it only looks at a file (CVE-2024-4467), so names are read here first. And
it reads what lies beyond a file's end as zeros and accepts a compressed cluster that is cut short, so a truncated
download would pass its check. Layout: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">4sIQIIQIIQ")  # magic, version, backing offset and size, cluster_bits, size, crypt, l1
_COMPRESSED = 1 << 62
_OFFSET = 0x00FFFFFFFFFFFE00
_SECTOR = 512
_V3_LENGTH = 104
_EXTERNAL_DATA = 1 << 2  # incompatible feature
_DATA_FILE = 0x44415441  # header extension


@dataclass(frozen=True)
class HeaderNames:
    """Other files that a header names; None: none. `encrypted`: its data is."""

    backing: str | None = None
    data: str | None = None
    encrypted: bool = False


def read_header_names(front: bytes) -> HeaderNames:
    """Of the beginning of a qcow2 file. What is cut off or makes no sense names nothing; qemu-img refuses it."""
    if len(front) < _HEADER.size:
        return HeaderNames()
    _, version, backing, backing_size, _, _, crypt, _, _ = _HEADER.unpack(front[: _HEADER.size])
    is_new = version >= 3 and len(front) >= _V3_LENGTH
    (features,) = struct.unpack_from(">Q", front, 72) if is_new else (0,)
    (begin,) = struct.unpack_from(">I", front, 100) if is_new else (72,)
    data = _find_extension(front, begin, _DATA_FILE)
    if data is None and features & _EXTERNAL_DATA:
        data = b""
    return HeaderNames(
        _words(front[backing : backing + min(backing_size, 1023)]) if backing else None,
        _words(data) if data is not None else None,
        bool(crypt),
    )


def _words(name: bytes) -> str:
    return name.rstrip(b"\0").decode("utf-8", "replace")


def _find_extension(front: bytes, begin: int, wanted: int) -> bytes | None:
    """The data of one header extension: type and length, then data padded to 8 bytes, until one of type 0."""
    while begin + 8 <= len(front):
        kind, length = struct.unpack_from(">II", front, begin)
        if kind == 0:
            return None
        if kind == wanted:
            return front[begin + 8 : begin + 8 + length]
        begin += 8 + (length + 7) // 8 * 8
    return None


def end_of_compressed_data(file: Path) -> int:
    """The first byte after the last compressed sector; 0 without compressed clusters.

    QEMU pads a file with compressed clusters to whole sectors, so a complete file is at least this long.
    """
    with file.open("rb") as handle:
        fields = _HEADER.unpack(handle.read(_HEADER.size))
        cluster_bits, l1_size, l1_offset = fields[4], fields[7], fields[8]
        handle.seek(l1_offset)
        l1 = _entries(handle, l1_size)
        return max((_end_in_table(handle, entry & _OFFSET, cluster_bits) for entry in l1 if entry), default=0)


def _end_in_table(handle: BinaryIO, offset: int, cluster_bits: int) -> int:
    handle.seek(offset)
    shift = 62 - (cluster_bits - 8)
    end = 0
    for entry in _entries(handle, (1 << cluster_bits) // 8):
        if entry & _COMPRESSED:
            start = entry & ((1 << shift) - 1)
            more_sectors = (entry >> shift) & ((1 << (cluster_bits - 8)) - 1)
            end = max(end, (start // _SECTOR + more_sectors + 1) * _SECTOR)
    return end


def _entries(handle: BinaryIO, count: int) -> tuple[int, ...]:
    """Big-endian 64-bit entries; those beyond the file's end are left out."""
    raw = handle.read(count * 8)
    return struct.unpack(f">{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])
