"""What a qcow2 header names is read without qemu-img, whatever the file holds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.drivers.qcow2 import HeaderNames, read_header_names
from tests.unit.examples import many

PASSWD = b"json:{'file.filename': '/etc/passwd'}"
NAMED = PASSWD.decode()


def header(
    version: int = 3, backing: tuple[int, int] = (0, 0), crypt: int = 0, features: int = 0, rest: bytes = b""
) -> bytes:
    made = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", version, *backing, 16, 2**20, crypt, 1, 2**17)
    made += struct.pack(">QIIQ", 2**16, 1, 0, 0)
    if version >= 3:
        made += struct.pack(">QQQII", features, 0, 0, 4, 104)
    return made + rest


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


@pytest.mark.parametrize(
    ("front", "names"),
    [
        (header(), HeaderNames()),
        (header(version=2), HeaderNames()),
        (header(backing=(112, len(PASSWD)), rest=bytes(8) + PASSWD), HeaderNames(backing=NAMED)),
        (
            header(version=2, backing=(80, len(PASSWD)), rest=bytes(8) + PASSWD),
            HeaderNames(backing=NAMED),
        ),
        (header(backing=(2**40, 10)), HeaderNames(backing="")),
        (header(features=4), HeaderNames(data="")),
        (header(features=4, rest=extension(0x44415441, PASSWD)), HeaderNames(data=NAMED)),
        # Named, though no feature says that it is used.
        (header(rest=extension(1, b"abc") + extension(0x44415441, PASSWD)), HeaderNames(data=NAMED)),
        (header(rest=bytes(8) + extension(0x44415441, PASSWD)), HeaderNames()),
        (header(crypt=2), HeaderNames(encrypted=True)),
        (b"QFI\xfb", HeaderNames()),
    ],
)
def test_names_of_a_header(front: bytes, names: HeaderNames) -> None:
    assert read_header_names(front) == names


@many
@given(st.binary(max_size=300), st.integers(2, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_no_header_confuses_the_reader(rest: bytes, version: int, offset: int, size: int) -> None:
    front = header(version, (offset, size), rest=rest)
    for cut in range(0, len(front), 7):
        read_header_names(front[:cut])
    names = read_header_names(front)
    assert (names.backing is None) == (offset == 0)
