"""What a qcow2 file names, whose it says it is, whether it holds anything, and where its compressed data ends.

qemu-img opens what a header names while it only looks at a file (CVE-2024-4467), so names are read here first. And
it reads what lies beyond a file's end as zeros and accepts a compressed cluster that is cut short, so a truncated
download would pass its check. Layout: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">4sIQIIQIIQ")  # magic, version, backing offset and size, cluster_bits, size, crypt, l1
_COMPRESSED = 1 << 62
_OFFSET = 0x00FFFFFFFFFFFE00
_SECTOR = 512
_MAX_TABLE = 32 * 2**20  # bytes; QEMU opens no file with a larger one
_MAGIC = b"QFI\xfb"
_V3_LENGTH = 104
_EXTERNAL_DATA = 1 << 2  # incompatible feature
_DATA_FILE = 0x44415441  # header extension
# Our own header extension. QEMU keeps what it does not know whenever it writes a header anew, and shows no guest.
_OWNER = 0x756E6473
FRONT = 64 * 1024
"""Bytes at the beginning of a file within which its header lies: one cluster, as QEMU makes them."""


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
    _, _, backing, backing_size, _, _, crypt, _, _ = _HEADER.unpack(front[: _HEADER.size])
    (features,) = struct.unpack_from(">Q", front, 72) if _is_new(front) else (0,)
    data = _find_extension(front, _DATA_FILE)
    if data is None and features & _EXTERNAL_DATA:
        data = b""
    return HeaderNames(
        _words(front[backing : backing + min(backing_size, 1023)]) if backing else None,
        _words(data) if data is not None else None,
        bool(crypt),
    )


def _words(name: bytes) -> str:
    return name.rstrip(b"\0").decode("utf-8", "replace")


def is_qcow2(front: bytes) -> bool:
    return front[:4] == _MAGIC and len(front) >= _HEADER.size


def read_owner(front: bytes) -> str:
    """What `write_owner` wrote; empty if nobody did."""
    return _words(_find_extension(front, _OWNER) or b"")


def write_owner(front: bytes, owner: str) -> bytes:
    """The beginning of a file that names no other, with an owner that is written into it. As long as it was.

    Raises ValueError if there is no room, or there is one already.
    """
    end, begin = _end_of_extensions(front), _begin_of_extensions(front)
    word = owner.encode()
    added = struct.pack(">II", _OWNER, len(word)) + _padded(word) + bytes(8)
    if not is_qcow2(front) or read_header_names(front).backing is not None or end < begin:
        raise ValueError("not the beginning of a qcow2 file that stands alone")
    if read_owner(front) or end + len(added) > len(front):
        raise ValueError("no room for an owner in this header")
    return front[:end] + added + front[end + len(added) :]


def first_table(front: bytes) -> tuple[int, int]:
    """(offset, bytes) of the table through which all data of the file is found: zeros if there is none yet."""
    fields = _HEADER.unpack(front[: _HEADER.size])
    return fields[8], min(fields[7] * 8, _MAX_TABLE)


def _is_new(front: bytes) -> bool:
    return int.from_bytes(front[4:8], "big") >= 3 and len(front) >= _V3_LENGTH


def _begin_of_extensions(front: bytes) -> int:
    return int.from_bytes(front[100:104], "big") if _is_new(front) else 72


def _padded(data: bytes) -> bytes:
    return data.ljust((len(data) + 7) // 8 * 8, b"\0")


def _extensions(front: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, offset, length) of each: type and length, then data padded to 8 bytes, until one of type 0."""
    at = _begin_of_extensions(front)
    while at + 8 <= len(front):
        kind, length = struct.unpack_from(">II", front, at)
        yield kind, at, length
        if kind == 0:
            return
        at += 8 + (length + 7) // 8 * 8


def _find_extension(front: bytes, wanted: int) -> bytes | None:
    """Its data."""
    found = ((at, length) for kind, at, length in _extensions(front) if kind == wanted)
    return next((front[at + 8 : at + 8 + length] for at, length in found), None)


def _end_of_extensions(front: bytes) -> int:
    """Where the one of type 0 is; -1 if there is none."""
    return next((at for kind, at, _ in _extensions(front) if kind == 0), -1)


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
