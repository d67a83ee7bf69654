"""Where the compressed data of a qcow2 file ends.

qemu-img reads what lies beyond a file's end as zeros and accepts a compressed cluster that is cut short, so a
truncated download would pass its check. Layout: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">4sIQIIQIIQ")  # magic, version, backing offset and size, cluster_bits, size, crypt, l1
_COMPRESSED = 1 << 62
_OFFSET = 0x00FFFFFFFFFFFE00
_SECTOR = 512


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
