"""What precedes QEMU's stream in a save image: taken as it is, or refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.drivers.libvirt.save_image import (
    SaveImage,
    copy_save_image,
    parse_save_image,
    read_save_image,
    render_save_image,
)
from orchestrator.errors import GoldenUnusable

XML = "<domain type='qemu'><name>web</name></domain>"
COOKIE = b"<cookie>\n  <slirpHelper/>\n</cookie>\n"
STREAM = b"QEVM" + bytes(range(256)) * 40


def header(
    magic: bytes = b"LibvirtQemudSave",
    version: int = 2,
    length: int = 512,
    running: int = 1,
    kind: int = 0,
    cookie: int = 0,
) -> bytes:
    return magic + struct.pack("<5I", version, length, running, kind, cookie) + bytes(56)


def data(length: int = 512, cookie: bytes = b"") -> bytes:
    text = XML.encode() + b"\0" + (cookie + b"\0" if cookie else b"")
    return text.ljust(length, b"\0")


def with_cookie() -> bytes:
    return header(cookie=len(XML) + 1) + data(cookie=COOKIE)


def test_an_image_is_read_with_its_cookie_and_its_room() -> None:
    image = parse_save_image(with_cookie() + STREAM)
    assert image == SaveImage(XML, COOKIE, 512, was_running=True)
    assert image.stream_offset == 92 + 512


def test_an_image_without_cookie_has_none() -> None:
    assert parse_save_image(header(running=0) + data()) == SaveImage(XML, b"", 512, was_running=False)


def test_what_is_written_is_what_libvirt_wrote() -> None:
    for written in (with_cookie(), header() + data()):
        assert render_save_image(parse_save_image(written)) == written


def test_another_document_keeps_cookie_length_and_what_is_unused() -> None:
    unused = bytes(range(56))
    image = parse_save_image(with_cookie()[:36] + unused + with_cookie()[92:])
    longer = replace(image, xml=XML.replace("web", "a longer name"))
    written = render_save_image(longer)
    assert len(written) == image.stream_offset
    assert written[36:92] == unused
    assert parse_save_image(written) == longer
    (offset,) = struct.unpack_from("<I", written, 32)
    assert written[92 + offset :].startswith(COOKIE)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "cut short"),
        (header()[:91], "cut short"),
        (header() + data()[:511], "cut short"),
        (header(magic=b"LibvirtQemudPart") + data(), "never written to its end"),
        (header(magic=b"LibvirtQemudWhat") + data(), "begins with"),
        (header(magic=b"QFI\xfb" + bytes(12)) + data(), "begins with"),
        (header(version=1) + data(), "version 1"),
        (header(version=3) + data(), "version 3"),
        (header(version=0x02000000) + data(), "version"),
        (header(kind=1) + data(), "format gzip"),
        (header(kind=2) + data(), "format bzip2"),
        (header(kind=3) + data(), "format xz"),
        (header(kind=4) + data(), "format lzop"),
        (header(kind=5) + data(), "format zstd"),
        (header(kind=6) + data(), "format sparse"),
        (header(kind=77) + data(), "format number 77"),
        (header(length=0), "0 bytes precede"),
        (header(length=2**31) + data(), "bytes precede"),
        (header() + b"x" * 512, "does not hold a domain XML"),
        (header() + bytes(512), "does not hold a domain XML"),
        (header(cookie=3) + data(cookie=COOKIE), "does not hold a domain XML"),
        (header(cookie=len(XML)) + data(cookie=COOKIE), "does not hold a domain XML"),
        (header(cookie=512) + data(cookie=COOKIE), "does not hold a domain XML"),
        (header() + b"\xff\xfe<".ljust(512, b"\0"), "is no text"),
    ],
)
def test_anything_else_is_refused(head: bytes, words: str) -> None:
    with pytest.raises(GoldenUnusable, match=words):
        parse_save_image(head)


def test_a_document_fits_to_the_last_byte_and_no_further() -> None:
    image = SaveImage("x" * 511, b"", 512, was_running=True)
    assert parse_save_image(render_save_image(image)) == image
    with pytest.raises(GoldenUnusable, match="too long"):
        render_save_image(replace(image, xml="x" * 512))
    with pytest.raises(GoldenUnusable, match="513 bytes, there is room for 512"):
        render_save_image(replace(image, xml="x" * 510, cookie=b"y"))


@given(st.binary(max_size=700))
def test_whatever_a_file_holds_it_is_an_image_or_refused(junk: bytes) -> None:
    for head in (junk, b"LibvirtQemudSave" + junk, header(length=200) + junk):
        try:
            image = parse_save_image(head)
        except GoldenUnusable:
            continue
        assert parse_save_image(render_save_image(image)) == image


def test_a_file_is_read_up_to_its_stream(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_bytes(with_cookie() + STREAM)
    assert read_save_image(file) == SaveImage(XML, COOKIE, 512, was_running=True)


@pytest.mark.parametrize("content", [b"", with_cookie()[:200], with_cookie(), with_cookie() + b"junk" * 9])
def test_a_file_without_a_stream_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "memory"
    file.write_bytes(content)
    with pytest.raises(GoldenUnusable):
        read_save_image(file)


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(GoldenUnusable, match=r"nothing\.mem"):
        read_save_image(tmp_path / "nothing.mem")


def test_a_copy_has_another_header_and_the_same_stream_and_its_source_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "golden.mem", tmp_path / "fork.mem"
    source.write_bytes(with_cookie() + STREAM)
    before = source.read_bytes()
    target.write_bytes(b"what a crash left" * 10_000)
    image = replace(read_save_image(source), xml=XML.replace("web", "other"))
    copy_save_image(source, target, image)
    assert read_save_image(target) == image
    assert target.read_bytes()[image.stream_offset :] == STREAM
    assert target.stat().st_mode & 0o777 == 0o600
    assert source.read_bytes() == before


def test_a_copy_is_never_written_through_a_link(tmp_path: Path) -> None:
    source, target, other = tmp_path / "golden.mem", tmp_path / "fork.mem", tmp_path / "somebody's"
    source.write_bytes(with_cookie() + STREAM)
    other.write_bytes(b"theirs")
    target.symlink_to(other)
    copy_save_image(source, target, read_save_image(source))
    assert other.read_bytes() == b"theirs"
    assert not target.is_symlink()


def test_nothing_is_copied_if_the_document_has_no_room(tmp_path: Path) -> None:
    source, target = tmp_path / "golden.mem", tmp_path / "fork.mem"
    source.write_bytes(with_cookie() + STREAM)
    with pytest.raises(GoldenUnusable, match="too long"):
        copy_save_image(source, target, replace(read_save_image(source), xml="x" * 600))
    assert not target.exists()
