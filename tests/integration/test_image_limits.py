"""qemu-img on an image that asks for too much: within limits, or nothing is done. Of time: `test_qemu_tool`."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from orchestrator.config.settings import Settings
from orchestrator.doctor.checks import Subject, examine
from orchestrator.drivers.qemu_img import convert_image, find_difference, inspect_image
from orchestrator.errors import ImageRefused, UnderstudyError

ALLOCATES = "print('started', flush=True)\nx = bytearray(3 * 2**30)"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with the mark of a boot sector, and a qcow2 by its first bytes."""
    file = tmp_path / "disk.raw"
    file.write_bytes(bytes(510) + b"\x55\xaa" + bytes(3584))
    return file


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    file = tmp_path / "disk.qcow2"
    file.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + bytes(4088))
    return file


def stand_before(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """A qemu-img that does this stands before the real one."""
    tool = folder / "bin" / "qemu-img"
    tool.parent.mkdir()
    tool.write_text(f"#!/usr/bin/python3 -S\n{program}\n", encoding="ascii")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def test_a_conversion_that_takes_all_memory_fails(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_before(monkeypatch, tmp_path, ALLOCATES)
    with pytest.raises(UnderstudyError, match="MemoryError"):
        convert_image(disk, "raw", tmp_path / "made.qcow2", "it", lambda _part: None)


def test_an_inspection_that_takes_all_memory_fails(
    qcow2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_before(monkeypatch, tmp_path, ALLOCATES)
    with pytest.raises(ImageRefused, match="MemoryError"):
        inspect_image(qcow2)


def test_a_conversion_that_the_kernel_ends_is_a_failure(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_before(monkeypatch, tmp_path, f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(UnderstudyError, match="cannot convert"):
        convert_image(disk, "raw", tmp_path / "made.qcow2", "it", lambda _part: None)


def test_without_prlimit_no_image_is_looked_at(
    disk: Path, qcow2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = tmp_path / "called"
    stand_before(monkeypatch, tmp_path, f"open({str(called)!r}, 'w')")
    (tmp_path / "bin" / "python3").symlink_to(shutil.which("python3") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    target = tmp_path / "made.qcow2"
    works = (
        lambda: inspect_image(qcow2),
        lambda: convert_image(disk, "raw", target, "it", lambda _part: None),
        lambda: find_difference(disk, "raw", qcow2, "it", lambda _part: None),
    )
    for work in works:
        with pytest.raises(UnderstudyError, match="prlimit is not installed") as refused:
            work()
        assert refused.value.fix == "apt-get install util-linux"
    assert not called.exists()
    subject = Subject(
        settings=Settings.model_construct(hosts=()),
        state_dir=tmp_path,
        connections={},
        volumes={},
        accelerator=lambda _host: pytest.fail("there is no host"),
        own_addresses=frozenset(),
        network=lambda: None,
    )
    (found,) = (one for one in examine(subject) if one.name == "prlimit")
    assert (found.level, found.fix) == ("fault", "apt-get install util-linux")
