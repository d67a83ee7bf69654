"""`templates/disks.sh` as a guest with udev and /etc/fstab runs it: on a loop device, in its own mount namespace.

That file systems grow is in `tests/e2e/test_storage.py`: containers may not do that.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.config.resources import template

MIB = 2**20
SERIAL = "drive-data"
ROOT_LINE = "UUID=1234 / ext4 defaults 0 1\n"

# The disk gets the link that udev would make; /etc is a directory of the test.
GUEST = """\
set -eu
loop=$(losetup -f --show "$1")
trap 'umount -q "$3" 2> /dev/null || true; losetup -d "$loop"' EXIT
mkdir -p /dev/disk
mount -t tmpfs none /dev/disk
mkdir /dev/disk/by-id
ln -s "$loop" "/dev/disk/by-id/ata-QEMU_HARDDISK_$5"
mount --bind "$2" /etc
status=0
for _ in 1 2; do
    sh -c "$4" understudy "$5" data "$3" || status=$?
done
echo "mounted: $(grep -c " $3 " /proc/mounts || true)"
exit "$status"
"""


@dataclass
class Guest:
    """A disk, and the directories of a guest that is to use it."""

    disk: Path
    etc: Path
    mount: Path

    def run(self) -> tuple[int, str]:
        """The script twice: exit status, output."""
        words = [str(self.disk), str(self.etc), str(self.mount), template("disks.sh"), SERIAL]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", GUEST, "guest", *words], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    def fstab(self) -> str:
        return (self.etc / "fstab").read_text(encoding="utf-8")

    def probe(self) -> str:
        done = subprocess.run(["blkid", "-p", str(self.disk)], capture_output=True, text=True, check=False)
        return done.stdout


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    made = Guest(tmp_path / "disk.raw", tmp_path / "etc", tmp_path / "data")
    made.disk.touch()
    with made.disk.open("r+b") as file:
        file.truncate(32 * MIB)
    made.etc.mkdir()
    (made.etc / "fstab").write_text(ROOT_LINE, encoding="utf-8")
    return made


def test_an_empty_disk_is_formatted_once_mounted_once_and_entered_in_fstab_once(guest: Guest) -> None:
    assert guest.run() == (0, "mounted: 1\n")
    probe = guest.probe()
    assert 'TYPE="ext4"' in probe
    assert 'LABEL="data"' in probe
    first, line = guest.fstab().splitlines()
    assert f"{first}\n" == ROOT_LINE
    uuid, directory, kind, options, *rest = line.split()
    assert f'UUID="{uuid.removeprefix("UUID=")}"' in probe
    assert (directory, kind, rest) == (str(guest.mount), "ext4", ["0", "0"])
    assert {"nofail", "x-systemd.before=local-fs.target"} <= set(options.split(","))
    assert guest.run() == (0, "mounted: 1\n")
    assert guest.probe() == probe
    assert guest.fstab().splitlines()[1:] == [line]


def test_another_disk_takes_the_line_of_the_one_it_replaces(guest: Guest) -> None:
    guest.run()
    before = guest.fstab()
    guest.disk.write_bytes(bytes(32 * MIB))
    assert guest.run()[0] == 0
    assert guest.fstab() != before
    assert len(guest.fstab().splitlines()) == 2


def test_a_file_system_that_is_there_is_used_as_it_is(guest: Guest) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-L", "mine", str(guest.disk)], check=True)
    before = guest.probe()
    assert guest.run() == (0, "mounted: 1\n")
    assert guest.probe() == before


@pytest.mark.parametrize("command", [["mkswap"], ["sfdisk", "-q"]], ids=["swap", "partition table"])
def test_what_holds_anything_else_is_never_formatted(guest: Guest, command: list[str]) -> None:
    subprocess.run([*command, str(guest.disk)], input=",\n", text=True, capture_output=True, check=True)
    before = guest.disk.read_bytes()
    status, said = guest.run()
    assert status == 1
    assert "mounted: 0" in said
    assert guest.disk.read_bytes() == before
    assert guest.fstab() == ROOT_LINE


def test_a_directory_that_has_something_else_mounted_is_left_alone(guest: Guest) -> None:
    guest.mount.mkdir()
    script = f'mount -t tmpfs none "{guest.mount}"\n{GUEST}'
    words = [str(guest.disk), str(guest.etc), str(guest.mount), template("disks.sh"), SERIAL]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "guest", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{guest.mount} has none mounted, not the disk {SERIAL}" in done.stdout
    assert guest.fstab() == ROOT_LINE
