"""What a qcow2 header names is read without qemu-img, whatever the file holds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.drivers.qcow2 import (
    FRONT,
    HeaderNames,
    first_table,
    is_qcow2,
    read_header_names,
    read_owner,
    write_owner,
)
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


@pytest.mark.parametrize("version", [2, 3])
def test_an_owner_that_was_written_is_read_and_the_rest_is_as_it_was(version: int) -> None:
    front = header(version, rest=extension(1, b"abc") + bytes(8)).ljust(FRONT, b"\0")
    owned = write_owner(front, "0123456789abcdef web.data.0@1700000000.25")
    assert (len(owned), read_owner(front)) == (FRONT, "")
    assert read_owner(owned) == "0123456789abcdef web.data.0@1700000000.25"
    assert (is_qcow2(owned), read_header_names(owned), first_table(owned)) == (True, HeaderNames(), (2**17, 8))
    assert owned.startswith(front[: 72 if version == 2 else 104])


@pytest.mark.parametrize(
    "front",
    [
        b"",
        b"no disk".ljust(FRONT, b"\0"),
        header(),  # no end of its extensions
        header(rest=bytes(8)),  # no room
        header(backing=(112, len(PASSWD)), rest=bytes(8) + PASSWD).ljust(FRONT, b"\0"),
        write_owner(header(rest=bytes(8)).ljust(FRONT, b"\0"), "somebody"),
    ],
)
def test_no_owner_is_written_where_it_would_overwrite_something(front: bytes) -> None:
    with pytest.raises(ValueError, match=r"not the beginning|no room"):
        write_owner(front, "us")
