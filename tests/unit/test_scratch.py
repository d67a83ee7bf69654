"""The state directory's rooms: what is worked in or in the making is told from what was left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config.paths import StatePaths
from orchestrator.config.rooms import DirectoryRooms
from orchestrator.config.scratch import find_mounts, is_abandoned, scratch
from orchestrator.drivers.keys import SecretIdentities, ensure_operator_key
from orchestrator.errors import UnderstudyError

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


def test_what_was_left_in_the_repository_is_abandoned_too(paths: StatePaths) -> None:
    rooms = DirectoryRooms(paths)
    with scratch(paths.images, "import-") as room:
        (room / "image.qcow2").touch()
        assert rooms.take_stock().scratch == frozenset()
    left = paths.images / "import-left"
    left.mkdir()
    assert rooms.take_stock().scratch == {"import-left"}
    rooms.remove_scratch("import-left")
    assert not left.exists()


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


def test_of_what_is_kept_beside_the_store_descriptions_and_unfinished_copies_are_counted(
    paths: StatePaths,
) -> None:
    (paths.declarations / "web.json").touch()
    (paths.declarations / ".web.json.partial").touch()
    (paths.image_records / "micro@1.json").touch()
    (paths.image_records / "micro@2.given").touch()  # is of no image, and stays
    rooms = DirectoryRooms(paths)
    assert rooms.take_stock().copies == {"declarations/.web.json.partial", "image-records/micro@1.json"}
    for name in rooms.take_stock().copies:
        rooms.remove_copy(name)
    assert rooms.take_stock().copies == frozenset()
    assert (paths.declarations / "web.json").exists()


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


# ---- keys ----------------------------------------------------------------------------------------------------


def test_a_key_that_a_killed_process_was_writing_is_left_over_and_one_in_the_making_is_not(
    paths: StatePaths,
) -> None:
    ensure_operator_key(paths.operator_key)
    SecretIdentities(paths.keys / "identity.secret")
    gone, alive = "99999999", str(os.getpid())
    for name in ("identity.secret", "operator_ed25519", "operator_ed25519.pub"):
        for process in (gone, alive):
            (paths.keys / f"{name}.{process}").write_bytes(b"half of it")
    (paths.private / f"installation.{gone}").touch()
    rooms = DirectoryRooms(paths)
    left = {"installation", "keys/identity.secret", "keys/operator_ed25519", "keys/operator_ed25519.pub"}
    assert rooms.take_stock().copies == {f"{name}.{gone}" for name in left}
    for name in rooms.take_stock().copies:
        rooms.remove_copy(name)
    assert rooms.take_stock().copies == frozenset()
    assert len(list(paths.keys.iterdir())) == 6


def test_half_a_public_key_is_made_again_from_the_private_one(paths: StatePaths) -> None:
    public = ensure_operator_key(paths.operator_key)
    paths.operator_key.with_suffix(".pub").write_bytes(b"")
    assert ensure_operator_key(paths.operator_key) == public
    assert ensure_operator_key(paths.operator_key) == public
    assert public.startswith("ssh-ed25519 ")


def test_an_empty_secret_is_no_secret(paths: StatePaths) -> None:
    (paths.keys / "identity.secret").touch()
    with pytest.raises(UnderstudyError, match="is empty") as error:
        SecretIdentities(paths.keys / "identity.secret")
    assert "backup" in error.value.fix
