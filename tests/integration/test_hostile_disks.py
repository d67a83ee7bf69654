"""What root of a guest writes to its disks and its console is nothing to libvirt of the host, which is root too.

The guest is simulated. What it writes at the beginning of its disk is written there by qemu-io, through the same
format driver of QEMU; what it prints is written into its log. virtlogd fills that with the bytes as they come, and
begins a new one wherever the guest is.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.drivers.libvirt import LibvirtConnection, LibvirtHost
from orchestrator.drivers.libvirt.ownership import HostIdentity
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import Conflict
from orchestrator.models.machine import Blueprint, Hardware
from orchestrator.models.members import Image
from orchestrator.models.naming import drive_volume, local_volume
from orchestrator.models.storage import ExtraDisk
from tests.support.fork_lab import describe_machine
from tests.support.private_host import PrivateHost, private_host

MIB = 2**20
SECRET = b"a file of the host, which only root may write\n"
CLUSTER = 64 * 1024
BACKING_FORMAT, UNKNOWN = bytes.fromhex("e2792aca"), bytes.fromhex("11223344")  # header extensions
REFRESH_SECONDS = 5


@dataclass
class Site:
    host: PrivateHost
    hypervisor: LibvirtHost
    volumes: Volumes
    root: Path
    machine: Blueprint

    @property
    def pool(self) -> Path:
        return self.root / "volumes"

    def refresh(self) -> None:
        """By libvirt itself, and in time."""
        pool = self.machine.domain.partition("-")[0]
        self.host.run("timeout", str(REFRESH_SECONDS), "virsh", "-c", "qemu:///system", "pool-refresh", pool)

    def stop(self) -> None:
        self.hypervisor.shut_down_machine(self.machine.domain, 0.1, lambda: False)

    def log(self) -> Path:
        return self.pool / "consoles" / f"{self.machine.domain}.{self.machine.incarnation}.console.log"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A running machine with local storage and a drive."""
    root = Path("/var/tmp") / f"understudy-test-{secrets.token_hex(4)}"
    root.mkdir(mode=0o711)
    with private_host() as host:
        connection, prefix = LibvirtConnection(host.uri), f"ust{secrets.token_hex(3)}"
        volumes = Volumes(connection, prefix, root / "volumes")
        hypervisor = LibvirtHost(HostIdentity("local", "a", prefix, "i"), connection, volumes, lambda: "tcg")
        file = tmp_path / "empty.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", file, "16M")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        image = Image("empty", 1, digest, file.stat().st_size, 16 * MIB, 0.0, "a test")
        hypervisor.ensure_image(image, file)
        disks = (
            ExtraDisk(local_volume(prefix, "web-4tz9k", 1), "local-storage", 0, 16 * MIB),
            ExtraDisk(
                drive_volume(prefix, "web", "data", 0), "drive-data", 1, 16 * MIB, is_drive=True, origin="a"
            ),
        )
        machine = replace(describe_machine(prefix, "i", image, "4tz9k"), disks=disks, memory=64 * MIB)
        hypervisor.create_machine(machine, None)
        try:
            yield Site(host, hypervisor, volumes, root, machine)
        finally:
            hypervisor.close()
    subprocess.run(["rm", "-rf", root], check=True)


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def naming_a_data_file(directory: Path, victim: Path) -> bytes:
    """A qcow2 header whose guest's bytes are those of another file; growing it grows that file. Made before the
    victim, which would not survive it."""
    file = directory / "with-data"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={victim},data_file_raw=on", file, "8M")
    victim.write_bytes(SECRET)
    victim.chmod(0o600)
    return padded(file.read_bytes())


def naming_a_fifo(directory: Path, fifo: Path) -> bytes:
    """A qcow2 header with a backing file whose format it does not say: whoever wants to know opens that file."""
    os.mkfifo(fifo)
    file = directory / "over-a-fifo"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", fifo, "-F", "raw", file, "8M")
    content = file.read_bytes()
    assert content.count(BACKING_FORMAT) == 1
    return padded(content.replace(BACKING_FORMAT, UNKNOWN))


def padded(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // CLUSTER) * CLUSTER, b"\0")


def write_as_guest(site: Site, content: bytes, tmp_path: Path) -> None:
    """At the beginning of each of its disks, which no machine has just then, and on its console."""
    file = tmp_path / "written"
    file.write_bytes(content)
    command = f"write -s {file} 0 {len(content)}"
    for disk in site.machine.disks:
        path = site.pool / disk.volume
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, capture_output=True)
    for path in (site.log(), site.log().with_name(f"{site.log().name}.0")):
        path.write_bytes(content)


def read_as_guest(site: Site, volume: str, size: int, tmp_path: Path) -> bytes:
    raw = tmp_path / "read"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", site.pool / volume, raw)
    return raw.read_bytes()[:size]


def new_body(machine: Blueprint, size: int) -> Blueprint:
    disks = tuple(replace(disk, size=size, must_exist=disk.is_drive) for disk in machine.disks)
    uuid = f"5b1c1c1e-0000-4000-8000-{secrets.token_hex(6)}"
    return replace(machine, incarnation=machine.incarnation + 1, uuid=uuid, disks=disks)


def sizes(site: Site) -> set[int]:
    return {site.volumes.list_sizes()[disk.volume] for disk in site.machine.disks}


@pytest.mark.parametrize("attack", ["data file", "backing file"])
def test_a_header_that_a_guest_wrote_is_nothing_but_its_data(site: Site, tmp_path: Path, attack: str) -> None:
    victim = tmp_path / "victim"
    content = naming_a_data_file(tmp_path, victim) if attack == "data file" else naming_a_fifo(tmp_path, victim)
    site.stop()
    write_as_guest(site, content, tmp_path)
    site.refresh()
    assert sizes(site) == {16 * MIB}
    grown = new_body(site.machine, 24 * MIB)
    site.hypervisor.create_machine(grown, None)
    assert sizes(site) == {24 * MIB}
    assert site.hypervisor.disks.attach(
        grown.domain, [replace(one, size=32 * MIB) for one in grown.disks], Hardware()
    )
    assert sizes(site) == {32 * MIB}
    site.refresh()
    site.hypervisor.destroy_machine(grown.domain)
    assert not (site.pool / "consoles").exists()
    for disk in grown.disks:
        assert read_as_guest(site, disk.volume, len(content), tmp_path) == content
    if attack == "data file":
        assert (victim.read_bytes(), victim.stat().st_mode & 0o777) == (SECRET, 0o600)
    site.hypervisor.disks.remove_local_storage("web-4tz9k")
    site.hypervisor.disks.remove_drive(replace(grown.disks[1], must_exist=True))
    assert [name for name in site.volumes.list_names() if "-image-" not in name] == []


def test_a_drive_in_whose_place_such_a_file_was_put_is_refused(site: Site, tmp_path: Path) -> None:
    """As by an operator who renamed a raw disk in place of converting it."""
    victim = tmp_path / "victim"
    content = naming_a_data_file(tmp_path, victim)
    site.stop()
    for disk in site.machine.disks:
        (site.pool / disk.volume).write_bytes(content)
    with pytest.raises(Conflict, match="is not the qcow2 disk that was made"):
        site.hypervisor.create_machine(new_body(site.machine, 24 * MIB), None)
    assert victim.read_bytes() == SECRET


def test_a_drive_is_known_by_what_its_file_says_after_all_that_qemu_did_with_it(
    site: Site, tmp_path: Path
) -> None:
    """No record says that it was made: whoever recorded it may have died."""
    drive = site.machine.disks[1]
    for size in (20 * MIB, 24 * MIB):
        assert site.hypervisor.disks.attach(site.machine.domain, [replace(drive, size=size)], Hardware())
    site.stop()
    content = b"data of a guest".ljust(CLUSTER, b"\0")
    write_as_guest(site, content, tmp_path)
    site.hypervisor.destroy_machine(site.machine.domain)
    other = replace(drive, origin="another record")
    again = replace(new_body(site.machine, 16 * MIB), disks=(other,))
    with pytest.raises(Conflict, match="was not made for"):
        site.hypervisor.create_machine(again, None)
    site.hypervisor.disks.remove_drive(other)
    site.hypervisor.create_machine(replace(again, disks=(replace(drive, size=32 * MIB),)), None)
    site.stop()
    assert read_as_guest(site, drive.volume, len(content), tmp_path) == content
    assert site.volumes.list_sizes()[drive.volume] == 32 * MIB


def test_an_empty_disk_that_says_nothing_of_its_owner_is_made_anew(site: Site, tmp_path: Path) -> None:
    """What is left of a creation that ended before its owner was written."""
    drive = site.machine.disks[1]
    site.hypervisor.destroy_machine(site.machine.domain)
    path = site.pool / drive.volume
    path.unlink()
    qemu_img("create", "-q", "-f", "qcow2", path, "8M")
    site.hypervisor.create_machine(site.machine, None)
    assert sizes(site) == {16 * MIB}
