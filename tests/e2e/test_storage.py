"""Local storage and drives on real guests, through the command line: rows A9 and A11."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

MIB = 2**20
STORAGE = """\
local_storage: {size: 32MiB, mount: /mnt/local}
drives: [{name: data, size: 32MiB, mount: /mnt/data}]
"""

# Also says whether local storage was there when the web server started.
KEPT = WEB.replace("httpd -p 80", "grep -q /mnt/local /proc/mounts && echo yes > /srv/www/local\nhttpd -p 80")


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance, no pool; the tests of this module change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        declare(made)
        yield made


def declare(web: Installation, instances: int = 1, standby: str = "", storage: str = STORAGE) -> str:
    web.write("web.yaml", web_set(web, instances=instances, standby=standby, user_data=KEPT, more=storage))
    return web.run("apply", str(web.root / "web.yaml"))


def ssh(web: Installation, name: str, command: str) -> str:
    return web.run("ssh", f"web/{name}", "--", command).strip()


def instances(web: Installation) -> list[str]:
    return [str(row["name"]) for row in web.members("instance")]


def drives(web: Installation) -> list[dict[str, Any]]:
    return list(web.status()["drives"])


def storage_volumes(web: Installation, kind: str) -> list[str]:
    return [name for name in web.volumes() if name.startswith(f"{web.prefix}-{kind}.")]


def test_both_are_mounted_before_an_instance_serves(web: Installation) -> None:
    (name,) = instances(web)
    mounts = ssh(web, name, "grep /mnt/ /proc/mounts")
    assert {line.split()[1] for line in mounts.splitlines()} == {"/mnt/local", "/mnt/data"}
    assert all(line.split()[2] == "ext4" for line in mounts.splitlines())
    (drive,) = drives(web)
    assert (drive["name"], drive["slot"], drive["size"], drive["member"]) == ("data", 0, 32 * MIB, name)
    assert storage_volumes(web, "local") == [f"{web.prefix}-local.{name}.1.qcow2"]
    assert f"drive data-0   32 MiB     local      {name}" in web.run("status", "web")


def test_they_are_mounted_again_when_the_guest_restarts(web: Installation) -> None:
    (name,) = instances(web)
    ssh(web, name, "echo local > /mnt/local/f; echo drive > /mnt/data/f; echo root > /root/f; sync")
    web.run("restart", f"web/{name}")
    assert ssh(web, name, "cat /mnt/local/f /mnt/data/f /root/f").split() == ["local", "drive", "root"]
    assert ssh(web, name, "cat /srv/www/local") == "yes"


def test_reimage_keeps_them_and_drops_the_overlay(web: Installation) -> None:
    (name,) = instances(web)
    web.run("reimage", f"web/{name}")
    assert ssh(web, name, "cat /mnt/local/f /mnt/data/f; ls /root").split() == ["local", "drive"]


def test_a_changed_model_keeps_them_under_the_same_name(web: Installation) -> None:
    (before,) = web.members("instance")
    changed = web_set(web, instances=1, user_data=f"{KEPT}echo 2 > /srv/www/edition\n", more=STORAGE)
    web.write("changed.yaml", changed)
    web.run("apply", str(web.root / "changed.yaml"))
    (after,) = web.members("instance")
    assert (after["name"], after["address"]) == (before["name"], before["address"])
    assert after["incarnation"] == before["incarnation"] + 1
    assert after["model"] != before["model"]
    assert web.fetch("/edition") == "2"
    assert ssh(web, after["name"], "cat /mnt/local/f /mnt/data/f; ls /root").split() == ["local", "drive"]


def test_redeploy_loses_local_storage_and_keeps_the_drive(web: Installation) -> None:
    (name,) = instances(web)
    said = web.run("redeploy", f"web/{name}")
    assert f"{name} gets a new machine: what is on its local storage is lost; drives are kept" in said
    assert ssh(web, name, "ls /mnt/local; cat /mnt/data/f").split() == ["lost+found", "drive"]
    assert storage_volumes(web, "local") == [f"{web.prefix}-local.{name}.4.qcow2"]


def test_a_drive_that_scale_in_left_is_returned_with_its_data_by_scale_out(web: Installation) -> None:
    (first,) = instances(web)
    web.run("scale", "web", "0")
    assert [(one["slot"], one["member"]) for one in drives(web)] == [(0, None)]
    assert storage_volumes(web, "local") == []
    web.run("scale", "web", "1")
    (second,) = instances(web)
    assert second != first
    assert ssh(web, second, "cat /mnt/data/f") == "drive"
    assert [(one["slot"], one["member"]) for one in drives(web)] == [(0, second)]


def test_a_smaller_drive_is_refused_before_anything_is_touched(web: Installation) -> None:
    before = web.status()
    for smaller in (
        STORAGE.replace("data, size: 32MiB", "data, size: 16MiB"),
        STORAGE.replace("32MiB", "16MiB", 1),
    ):
        web.write("small.yaml", web_set(web, instances=3, user_data=KEPT, more=smaller))
        said = web.run("apply", str(web.root / "small.yaml"), expect=2)
        assert "is smaller than the 32 MiB" in said
    assert web.status() == before


@pytest.mark.parametrize("state", ["stopped", "running", "hibernated"])
def test_a_claim_gets_a_left_drive_mounted_before_it_serves(web: Installation, state: str) -> None:
    web.run("scale", "web", "0")
    declare(web, instances=0, standby=f"{{state: {state}, max_ready: 1}}")
    (member,) = [str(row["name"]) for row in web.members("standby")]
    said = web.run("scale", "web", "1")
    assert f"claimed {member} from the standby pool" in said
    assert f"{member} takes drive data-0" in web.run("events", "web")
    assert instances(web) == [member]
    assert web.fetch() == member
    assert ssh(web, member, "cat /mnt/data/f; ls /mnt/local").split() == ["drive", "lost+found"]
    assert len(drives(web)) == 1


def test_a_grown_drive_is_larger_after_a_restart(web: Installation) -> None:
    declare(web, storage=STORAGE.replace("data, size: 32MiB", "data, size: 64MiB"))
    (name,) = instances(web)
    assert drives(web)[0]["size"] == 64 * MIB
    web.run("restart", f"web/{name}")
    blocks = ssh(web, name, "df -k /mnt/data | tail -n 1").split()[1]
    assert int(blocks) > 48 * 1024
    assert ssh(web, name, "cat /mnt/data/f") == "drive"


def test_a_disk_that_holds_something_else_is_never_formatted(web: Installation) -> None:
    web.run("scale", "web", "0")
    partition = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, 2048)
    table = partition.ljust(64, b"\0") + b"\x55\xaa"
    content = bytes(446) + table + on_drive(web, 1024)[512:] + bytes(64 * 1024)  # no superblock any more
    write_to_drive(web, content)
    said = web.run("scale", "web", "1", expect=1)
    assert "the disk drive-data holds no file system that could be mounted on /mnt/data, and is not empty" in said
    assert on_drive(web, len(content)) == content


def drive_file(web: Installation) -> Path:
    (volume,) = storage_volumes(web, "drive")
    return web.root / "volumes" / volume


def on_drive(web: Installation, size: int) -> bytes:
    """What a guest reads at its beginning, whoever has it now."""
    raw = web.root / "read.raw"
    command = ["qemu-img", "convert", "--force-share", "-f", "qcow2", "-O", "raw", str(drive_file(web)), str(raw)]
    subprocess.run(command, check=True)
    return raw.read_bytes()[:size]


def write_to_drive(web: Installation, content: bytes) -> None:
    """As a guest writes it at its beginning. No machine may have it now."""
    written = web.root / "written.raw"
    written.write_bytes(content)
    command = f"write -s {written} 0 {len(content)}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, drive_file(web)], check=True, capture_output=True)


def test_delete_keeps_drives_and_says_how_to_remove_them(web: Installation) -> None:
    said = web.run("delete", "web")
    assert "1 drive (64 MiB) kept" in said
    assert "understudy delete web --delete-drives" in said
    assert web.domains() == []
    assert [name for name in web.volumes() if "-image-" not in name] == storage_volumes(web, "drive")
    assert "--delete-drives" in web.run("delete", "web", expect=2)
    assert "kept for a set of that name" in web.run("status")


def test_delete_drives_removes_what_a_deleted_set_left(web: Installation) -> None:
    assert "web: drive data-0 deleted" in web.run("delete", "web", "--delete-drives")
    assert storage_volumes(web, "drive") == []
    assert "there is no scale set" in web.run("delete", "web", "--delete-drives", expect=2)


def test_a_set_declared_again_gets_its_drive_back_and_nothing_is_left_in_the_end(web: Installation) -> None:
    declare(web)
    ssh(web, instances(web)[0], "echo again > /mnt/data/f; sync")
    web.run("delete", "web")
    declare(web)
    assert ssh(web, instances(web)[0], "cat /mnt/data/f") == "again"
    web.run("delete", "web", "--delete-drives")
    assert web.domains() == []
    assert [name for name in web.volumes() if "-image-" not in name] == []
    with sqlite3.connect(web.root / "private" / "store.sqlite") as store:
        assert store.execute("SELECT count(*) FROM drives").fetchone() == (0,)
    store.close()
