"""Files of golden images: when they are one, and what is left of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.drivers.libvirt import LibvirtConnection
from orchestrator.drivers.libvirt.golden import Goldens
from orchestrator.drivers.libvirt.golden_files import (
    Golden,
    GoldenFiles,
    GoldenMark,
    check_file,
    mark_file,
    read_mark,
    remove_parts,
    write_mark,
)
from orchestrator.drivers.libvirt.ownership import HostIdentity
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import GoldenUnusable

MODEL, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def files(tmp_path: Path) -> GoldenFiles:
    return GoldenFiles(tmp_path, "us")


def complete(files: GoldenFiles, model: str = MODEL) -> tuple[Golden, GoldenMark]:
    golden = files.next_of(model)
    golden.disk.write_bytes(b"frozen")
    golden.memory.write_bytes(b"memory")
    mark = GoldenMark(
        source="us-web-4tz9k",
        base="d1" * 32,
        created_at=1767607781.25,
        writer="libvirt 9, QEMU 7",
        disk=mark_file(golden.disk),
        memory=mark_file(golden.memory),
    )
    write_mark(golden, mark)
    return golden, mark


def test_an_image_is_complete_with_its_mark_and_only_its_owner_reads_it(files: GoldenFiles) -> None:
    golden, mark = complete(files)
    assert read_mark(golden) == mark
    assert golden.mark.stat().st_mode & 0o777 == 0o400
    assert [golden.disk.name, golden.memory.name, golden.mark.name] == [
        f"us-golden-{MODEL}.1.{kind}" for kind in ("qcow2", "mem", "json")
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"source": 1}', "\x00" * 400])
def test_a_mark_that_was_not_written_to_its_end_is_none(files: GoldenFiles, text: str) -> None:
    golden, _ = complete(files)
    golden.mark.chmod(0o600)
    golden.mark.write_text(text)
    assert read_mark(golden) is None


def test_a_mark_with_more_than_we_write_is_none(files: GoldenFiles) -> None:
    golden, mark = complete(files)
    golden.mark.chmod(0o600)
    golden.mark.write_text(mark.model_dump_json().replace("{", '{"more": 1,', 1))
    assert read_mark(golden) is None


def test_a_mark_is_never_written_over_another(files: GoldenFiles) -> None:
    golden, mark = complete(files)
    with pytest.raises(FileExistsError):
        write_mark(golden, mark)


def test_images_are_found_by_whichever_part_there_is_and_each_gets_a_number_of_its_own(files: GoldenFiles) -> None:
    complete(files)
    files.at(MODEL, 2).memory.touch()
    files.at(MODEL, 10).disk.touch()
    complete(files, OTHER)
    for name in ("us-golden-web.1.mem", "us-web-4tz9k.1.mem", "others-golden-0123456789abcdef.7.mem", "notes"):
        (files.directory / name).touch()
    assert [one.serial for one in files.list_of(MODEL)] == [1, 2, 10]
    assert files.next_of(MODEL).serial == 11
    assert [(one.model, one.serial) for one in files.list_all()][-1] == (OTHER, 1)


def test_without_a_directory_there_are_none(tmp_path: Path) -> None:
    assert GoldenFiles(tmp_path / "nothing", "us").list_all() == []


def test_a_file_is_what_it_was_if_only_its_time_has_changed(files: GoldenFiles) -> None:
    golden, mark = complete(files)
    check_file(golden.disk, mark.disk)
    os.utime(golden.disk)
    check_file(golden.disk, mark.disk)


@pytest.mark.parametrize("content", [b"", b"frozeN", b"frozen and more"])
def test_a_file_that_was_written_is_refused(files: GoldenFiles, content: bytes) -> None:
    golden, mark = complete(files)
    golden.disk.write_bytes(content)
    with pytest.raises(GoldenUnusable, match=r"1\.qcow2 is not what it was"):
        check_file(golden.disk, mark.disk)


def test_a_change_that_hides_its_time_is_found_by_looking_thoroughly(files: GoldenFiles) -> None:
    golden, mark = complete(files)
    golden.memory.write_bytes(b"Memory")
    os.utime(golden.memory, ns=(mark.memory.modified, mark.memory.modified))
    check_file(golden.memory, mark.memory)
    with pytest.raises(GoldenUnusable):
        check_file(golden.memory, mark.memory, thoroughly=True)


def test_a_file_that_is_gone_is_refused(files: GoldenFiles) -> None:
    golden, mark = complete(files)
    golden.memory.unlink()
    with pytest.raises(GoldenUnusable, match="cannot be read: No such file"):
        check_file(golden.memory, mark.memory)


def test_parts_are_removed_and_a_disk_may_stay(files: GoldenFiles) -> None:
    golden, _ = complete(files)
    for _ in range(2):
        remove_parts(golden, keep_disk=True)
        assert [path.name for path in files.directory.iterdir()] == [golden.disk.name]
    for _ in range(2):
        remove_parts(golden)
        assert list(files.directory.iterdir()) == []


def goldens(uri: str, directory: Path) -> Goldens:
    connection = LibvirtConnection(uri)
    return Goldens(connection, Volumes(connection, "us", directory), HostIdentity("local", "a", "us", "i"))


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ssh://root@host/system",
        "qemu+unix://host/system",
        "qemu+tls://host/system",
        "qemu://host/system",
        "test:///default",
    ],
)
def test_a_host_elsewhere_has_none(tmp_path: Path, uri: str) -> None:
    assert "is not on this machine" in goldens(uri, tmp_path).why_none()


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/run/other"])
def test_a_host_whose_files_are_here_can_have_them(tmp_path: Path, uri: str) -> None:
    assert goldens(uri, tmp_path).why_none() == ""
    assert goldens(uri, tmp_path / "not yet").why_none() == ""


def test_without_room_none_is_taken_and_nothing_forked(tmp_path: Path) -> None:
    goldens("qemu:///system", tmp_path).check_space(1)
    with pytest.raises(GoldenUnusable, match="MiB free, a memory image needs"):
        goldens("qemu:///system", tmp_path).check_space(2**60)
