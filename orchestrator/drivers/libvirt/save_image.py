"""libvirt's save image: what precedes QEMU's stream, read and written.

The layout is that of libvirt's `src/qemu/qemu_saveimage.h`, version 2. Integers have the byte order of the host
that wrote them: on x86 the lowest byte first.

    offset  bytes
         0     16  magic: LibvirtQemudSave, or LibvirtQemudPart until all of it is written
        16      4  version: 2
        20      4  length of the data between this header and the stream
        24      4  1 if the machine ran
        28      4  format of the stream: 0 raw, 1 gzip, 2 bzip2, 3 xz, 4 lzop, 5 zstd, above them sparse
        32      4  offset of the cookie in the data; 0: there is none
        36     56  unused
        92         data: domain XML, NUL, cookie, NUL, room for either to grow
                   QEMU's stream, which begins with QEVM; of the sparse format, memory at fixed offsets after it

libvirt offers `virDomainSaveImageDefineXML` to change the XML, but refuses another name or UUID.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import GoldenUnusable

_HEADER = struct.Struct("<16s5I56s")
_MAGIC = b"LibvirtQemudSave"
_PARTIAL = b"LibvirtQemudPart"
_VERSION = 2
_FORMATS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
_STREAM = b"QEVM"
_LONGEST = 16 * 2**20  # bytes of data; what is longer is no domain XML
_NO_COPYING = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL)


@dataclass(frozen=True)
class SaveImage:
    """What precedes the stream. `length`: of the data, in bytes, with the room in it; it must stay what it is, for
    the stream begins after it."""

    xml: str
    cookie: bytes
    length: int
    was_running: bool
    unused: bytes = bytes(56)

    @property
    def stream_offset(self) -> int:
        return _HEADER.size + self.length


def parse_save_image(head: bytes) -> SaveImage:
    """`head`: the file's beginning, at least up to its stream. Raises GoldenUnusable."""
    length, cookie_offset, was_running, unused = _parse_header(head)
    data = head[_HEADER.size : _HEADER.size + length]
    if len(data) < length:
        raise GoldenUnusable(f"the memory image is cut short: {len(data)} of {length} bytes precede its stream")
    document, end, _ = data.partition(b"\0")
    if not end or not document or (cookie_offset and not len(document) < cookie_offset < length):
        raise GoldenUnusable("the memory image does not hold a domain XML where it should")
    cookie = data[cookie_offset:].partition(b"\0")[0] if cookie_offset else b""
    try:
        return SaveImage(document.decode(), cookie, length, was_running, unused)
    except UnicodeDecodeError as error:
        raise GoldenUnusable("the domain XML in the memory image is no text") from error


def _parse_header(head: bytes) -> tuple[int, int, bool, bytes]:
    """(length of the data, offset of the cookie in it, was it running, what is unused)."""
    if len(head) < _HEADER.size:
        raise GoldenUnusable(f"the memory image is cut short: it has {len(head)} bytes")
    magic, version, length, was_running, kind, cookie_offset, unused = _HEADER.unpack_from(head)
    if magic == _PARTIAL:
        raise GoldenUnusable("the memory image was never written to its end")
    if magic != _MAGIC:
        raise GoldenUnusable(f"the memory image begins with {magic!r}, not with {_MAGIC!r}")
    if version != _VERSION:
        raise GoldenUnusable(f"the memory image has version {version}; known is {_VERSION}")
    if kind != 0:
        words = _FORMATS[kind] if kind < len(_FORMATS) else f"number {kind}"
        raise GoldenUnusable(
            f"the memory image has format {words}; only raw ones can be forked",
            "set snapshot_image_format and save_image_format to raw in qemu.conf on the host",
        )
    if not 0 < length <= _LONGEST:
        raise GoldenUnusable(f"the memory image says that {length} bytes precede its stream")
    return length, cookie_offset, bool(was_running), unused


def render_save_image(image: SaveImage) -> bytes:
    """Header and data, of `stream_offset` bytes. Raises GoldenUnusable if the XML has no room."""
    document = image.xml.encode() + b"\0"
    data = document + (image.cookie + b"\0" if image.cookie else b"")
    if len(data) > image.length:
        raise GoldenUnusable(
            f"the domain XML is too long for the memory image: {len(data)} bytes, there is room for {image.length}"
        )
    offset = len(document) if image.cookie else 0
    header = _HEADER.pack(_MAGIC, _VERSION, image.length, int(image.was_running), 0, offset, image.unused)
    return header + data.ljust(image.length, b"\0")


def read_save_image(path: Path) -> SaveImage:
    """Raises GoldenUnusable, also if no stream follows or the file cannot be read."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise GoldenUnusable(f"the memory image {path} cannot be read: {error.strerror}") from error


def _read(file: BinaryIO) -> SaveImage:
    head = file.read(_HEADER.size)
    length = _parse_header(head)[0]
    image = parse_save_image(head + file.read(length))
    if file.read(len(_STREAM)) != _STREAM:
        raise GoldenUnusable("the memory image holds no stream of QEMU where it should")
    return image


def copy_save_image(source: Path, target: Path, image: SaveImage) -> None:
    """The stream of `source` under the header of `image`, for its owner alone; `target` is made anew.

    The kernel copies, or shares the blocks where the file system can. Raises GoldenUnusable; OSError, as of a disk
    that is full.
    """
    head = render_save_image(image)
    target.unlink(missing_ok=True)
    with source.open("rb") as reader:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(target, flags, 0o600), "wb") as writer:
            _copy(reader, writer)
            os.pwrite(writer.fileno(), head, 0)


def _copy(reader: BinaryIO, writer: BinaryIO) -> None:
    left = os.fstat(reader.fileno()).st_size
    try:
        while left > 0:
            copied = os.copy_file_range(reader.fileno(), writer.fileno(), left)
            if copied == 0:
                raise GoldenUnusable("the memory image became shorter while it was copied")
            left -= copied
    except OSError as error:
        if error.errno not in _NO_COPYING:
            raise
        reader.seek(0)
        writer.seek(0)
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
