"""Scratch directories: one that is worked in is told from one that was left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config.paths import StatePaths
from orchestrator.config.rooms import DirectoryRooms
from orchestrator.config.scratch import find_mounts, is_abandoned, scratch

HOLDER = """
import sys, pathlib
from orchestrator.config.scratch import scratch
with scratch(pathlib.Path(sys.stdin.readline().strip()), "import-") as room:
    print(room, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    made = StatePaths(tmp_path)
    made.ensure()
    return made


def test_a_directory_in_use_is_not_abandoned_and_is_gone_at_the_end(paths: StatePaths) -> None:
    with scratch(paths.work, "import-") as room:
        assert not is_abandoned(room)
        assert DirectoryRooms(paths).take_stock().scratch == frozenset()
    assert not room.exists()
    assert not is_abandoned(room)


def test_what_a_killed_process_left_is_abandoned_and_can_be_removed(paths: StatePaths) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(f"{paths.work}\n")
    holder.stdin.flush()
    room = Path(holder.stdout.readline().strip())
    rooms = DirectoryRooms(paths)
    assert rooms.take_stock().scratch == frozenset()
    rooms.remove_scratch(room.name)
    assert room.exists()
    holder.kill()
    holder.communicate()
    (room / "source").write_bytes(b"half of it")
    assert rooms.take_stock().scratch == {room.name}
    rooms.remove_scratch(room.name)
    assert not room.exists()


def test_a_tool_that_outlived_its_command_still_works_in_it(paths: StatePaths) -> None:
    room = paths.work / "import-x"
    room.mkdir()
    script = "import sys; print('at work', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(room / "image.qcow2")]
    tool = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert tool.stdout is not None
        assert tool.stdout.readline() == b"at work\n"
        assert not is_abandoned(room)
    finally:
        tool.communicate()
    assert is_abandoned(room)


def test_what_is_mounted_below_is_found() -> None:
    mounts = "proc /proc proc rw 0 0\ndev /work/build-x/root/dev tmpfs rw 0 0\ndev /work/build-xy tmpfs rw 0 0\n"
    assert find_mounts(Path("/work/build-x"), mounts) == ["/work/build-x/root/dev"]


def test_downloads_and_strange_files_are_no_scratch(paths: StatePaths) -> None:
    (paths.work / f"{'a' * 64}.partial").touch()
    (paths.work / "notes").mkdir()
    assert DirectoryRooms(paths).take_stock().scratch == frozenset()


def test_what_the_state_directory_holds_is_counted(paths: StatePaths) -> None:
    (paths.images / f"{'a' * 64}.qcow2").touch()
    (paths.images / "README").touch()
    (paths.uploads / "b.tar").touch()
    (paths.secrets / "c").touch()
    rooms = DirectoryRooms(paths)
    with rooms.held():
        seen = rooms.take_stock()
    assert [sorted(one) for one in (seen.images, seen.uploads, seen.secrets)] == [["a" * 64], ["b.tar"], ["c"]]
    rooms.remove_image("a" * 64)
    rooms.remove_upload("b.tar")
    rooms.remove_secret("c")
    rooms.remove_secret("c")  # absent is success
    assert rooms.take_stock().images == frozenset()
