"""One suite for the fake hypervisor and for the real one (libvirt and QEMU), so that the fake cannot lie.

The guest is an empty disk: firmware that finds nothing to boot is a machine like any other to its host.
"""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import pytest

from orchestrator.drivers.libvirt import LibvirtConnection, LibvirtHost
from orchestrator.drivers.libvirt.ownership import HostIdentity
from orchestrator.drivers.libvirt.volumes import CONSOLES, Volumes
from orchestrator.errors import BaseLost, Conflict, DiskLost, HostError, NotFound
from orchestrator.models.machine import Blueprint, Hardware, Nic
from orchestrator.models.members import Image, Role
from orchestrator.models.naming import (
    console_log,
    drive_volume,
    image_volume,
    local_volume,
    overlay_volume,
    raw_volume,
    seed_volume,
)
from orchestrator.models.ownership import TagState
from orchestrator.models.sightings import MachineSighting, Power
from orchestrator.models.storage import ExtraDisk
from orchestrator.ports.hypervisor import Hypervisor
from tests.builders import INSTALLATION, PREFIX
from tests.fakes import FakeHypervisor
from tests.support.changed_file import change_file
from tests.support.installation import installation, wait_until

MIB = 2**20


class Lab(Protocol):
    """A hypervisor, and what may happen to its host behind its back."""

    hypervisor: Hypervisor
    prefix: str
    installation: str
    image_file: Path

    def kill(self, domain: str) -> None: ...
    def vanish(self, domain: str) -> None: ...
    def add_foreign(self, domain: str, volume: str = "") -> None:
        """A domain of somebody else, with that volume as its disk."""

    def lose(self, volume: str) -> None:
        """The file behind it is deleted."""

    def put(self, volume: str, content: bytes) -> None:
        """Somebody else's file is there, which no domain has. An empty one is what a creation that was cut short
        leaves."""

    def change(self, volume: str) -> None:
        """A byte of the file behind it is another one, and its time of modification is what it was."""

    def has_foreign(self, domain: str) -> bool: ...
    def volumes(self) -> list[str]: ...
    def logs(self) -> list[str]:
        """Names of what consoles have shown."""

    def disks_of(self, domain: str) -> set[str]:
        """Volumes of further disks that the machine has: now if it runs, else from its next start on."""

    def size_of(self, volume: str) -> int:
        """In bytes."""

    def say(self, domain: str, text: str) -> None:
        """Appended to what its serial console has shown."""

    def seed_of(self, domain: str) -> bytes:
        """What the volume of its first body's seed holds; empty if there is none."""

    def mode_of(self, volume: str) -> int:
        """Or of a log."""


class FakeLab:
    def __init__(self, image_file: Path) -> None:
        self.fake = FakeHypervisor()
        self.hypervisor: Hypervisor = self.fake
        self.prefix, self.installation, self.image_file = PREFIX, INSTALLATION, image_file

    def kill(self, domain: str) -> None:
        self.fake.kill(domain)

    def vanish(self, domain: str) -> None:
        self.fake.vanish(domain)

    def add_foreign(self, domain: str, volume: str = "") -> None:
        self.fake.foreign.add(domain)
        if volume:
            self.fake.volumes.setdefault(volume, b"theirs")
            self.fake.foreign_disks.add(volume)

    def lose(self, volume: str) -> None:
        self.fake.lose(volume)

    def put(self, volume: str, content: bytes) -> None:
        self.fake.volumes[volume] = content
        if content:
            self.fake.strange.add(volume)

    def change(self, volume: str) -> None:
        self.fake.change(volume)

    def has_foreign(self, domain: str) -> bool:
        return domain in self.fake.foreign

    def volumes(self) -> list[str]:
        return sorted(self.fake.volumes)

    def logs(self) -> list[str]:
        return sorted(self.fake.consoles)

    def disks_of(self, domain: str) -> set[str]:
        machine = self.fake.machines[domain]
        return machine.live if machine.power is Power.RUNNING else machine.disks

    def size_of(self, volume: str) -> int:
        return self.fake.disks.sizes[volume]

    def say(self, domain: str, text: str) -> None:
        self.fake.say(domain, text)

    def seed_of(self, domain: str) -> bytes:
        return self.fake.volumes.get(seed_volume(domain, 1), b"")

    def mode_of(self, volume: str) -> int:
        assert volume in {*self.fake.volumes, *self.fake.consoles}
        return 0o600


class LibvirtLab:
    uri = "qemu:///system"

    def __init__(self, root: Path, prefix: str, image_file: Path) -> None:
        self.prefix, self.installation, self.image_file = prefix, secrets.token_hex(8), image_file
        connection = LibvirtConnection(self.uri)
        self._volumes = Volumes(connection, prefix, root / "volumes")
        self._foreign: list[str] = []
        identity = HostIdentity("local", "a", prefix, self.installation)
        self.hypervisor: Hypervisor = LibvirtHost(identity, connection, self._volumes, lambda: "tcg")

    def kill(self, domain: str) -> None:
        done = subprocess.run(["pgrep", "-f", f"guest={domain},"], capture_output=True, text=True, check=True)
        subprocess.run(["kill", "-9", *done.stdout.split()], check=True)

    def vanish(self, domain: str) -> None:
        self._virsh("destroy", domain)
        self._virsh("undefine", domain)

    def add_foreign(self, domain: str, volume: str = "") -> None:
        rest = "<memory unit='MiB'>32</memory><os><type>hvm</type></os>"
        if volume:
            path = self._volumes.directory / volume
            path.touch()
            self._volumes.refresh()
            disk = f"<disk type='file'><source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
            rest += f"<devices>{disk}</devices>"
        xml = f"<domain type='qemu'><name>{domain}</name>{rest}</domain>"
        subprocess.run(["virsh", "-c", self.uri, "define", "/dev/stdin"], input=xml, text=True, check=True)
        self._foreign.append(domain)

    def close(self) -> None:
        self.hypervisor.close()
        for domain in self._foreign:
            self._virsh("undefine", domain)

    def lose(self, volume: str) -> None:
        (self._volumes.directory / volume).unlink()

    def put(self, volume: str, content: bytes) -> None:
        (self._volumes.directory / volume).write_bytes(content)
        self._volumes.refresh()

    def change(self, volume: str) -> None:
        change_file(self._volumes.directory / volume)

    def has_foreign(self, domain: str) -> bool:
        return self._virsh("dominfo", domain) == 0

    def volumes(self) -> list[str]:
        return self._volumes.list_names()

    def logs(self) -> list[str]:
        return sorted(path.name for path in (self._volumes.directory / CONSOLES).glob("*"))

    def disks_of(self, domain: str) -> set[str]:
        done = subprocess.run(
            ["virsh", "-c", self.uri, "dumpxml", domain], capture_output=True, text=True, check=True
        )
        disks = ElementTree.fromstring(done.stdout).findall("./devices/disk[serial]/source")
        return {Path(source.get("file", "")).name for source in disks}

    def size_of(self, volume: str) -> int:
        return self._volumes.list_sizes()[volume]

    def say(self, domain: str, text: str) -> None:
        path = self._volumes.directory / CONSOLES / console_log(domain, 1)
        with path.open("a", encoding="utf-8") as log:
            log.write(text)

    def seed_of(self, domain: str) -> bytes:
        name = seed_volume(domain, 1)
        return Path(self._volumes.path_of(name)).read_bytes() if name in self.volumes() else b""

    def mode_of(self, volume: str) -> int:
        places = (self._volumes.directory, self._volumes.directory / CONSOLES)
        path = next(place / volume for place in places if (place / volume).exists())
        return path.stat().st_mode & 0o7777

    def _virsh(self, *arguments: str) -> int:
        return subprocess.run(["virsh", "-c", self.uri, *arguments], capture_output=True, check=False).returncode


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    file = tmp_path / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "16M"], check=True)
    return file


@pytest.fixture(params=["fake", "libvirt"])
def lab(request: pytest.FixtureRequest, image_file: Path) -> Iterator[Lab]:
    if request.param == "fake":
        yield FakeLab(image_file)
        return
    with installation() as private:
        made = LibvirtLab(private.root, private.prefix, image_file)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def image(lab: Lab) -> Image:
    content = lab.image_file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    made = Image("empty", 1, digest, len(content), 16 * MIB, 0.0, "a test")
    lab.hypervisor.ensure_image(made, lab.image_file)
    return made


@pytest.fixture
def blueprint(lab: Lab, image: Image) -> Blueprint:
    address = f"127.{secrets.randbelow(90) + 10}.{secrets.randbelow(250)}.2"
    return Blueprint(
        domain=f"{lab.prefix}-web-1",
        uuid="5b1c1c1e-0000-4000-8000-" + secrets.token_hex(6),
        member="web-1",
        set_name="web",
        installation=lab.installation,
        incarnation=1,
        model="0123456789abcdef",
        vcpus=1,
        memory=64 * MIB,
        disk=None,
        image=image,
        nic=Nic("52:54:00:00:00:01", address, forwards=((20022, 22),)),
    )


def see(lab: Lab, domain: str) -> MachineSighting | None:
    return lab.hypervisor.observe().machines.get(domain)


def power(lab: Lab, domain: str) -> Power:
    seen = see(lab, domain)
    return seen.power if seen is not None else Power.ABSENT


def never() -> bool:
    return False


def new_body(blueprint: Blueprint) -> Blueprint:
    uuid = "5b1c1c1e-0000-4000-8000-" + secrets.token_hex(6)
    return replace(blueprint, incarnation=blueprint.incarnation + 1, uuid=uuid)


def test_an_empty_host_answers_with_its_memory(lab: Lab) -> None:
    seen = lab.hypervisor.observe()
    assert (seen.answers, dict(seen.machines)) == (True, {})
    assert seen.memory_total > seen.memory_free > 0
    assert seen.cpus > 0


def test_a_created_machine_runs_and_is_seen_with_its_owner(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, b"seed")
    assert see(lab, blueprint.domain) == MachineSighting(blueprint.domain, "web-1", 1, Power.RUNNING)
    assert lab.hypervisor.observe().emulates is not None  # known by now
    own = [name for name in lab.volumes() if name.startswith(f"{blueprint.domain}.")]
    assert own == [f"{blueprint.domain}.1.{kind}" for kind in ("qcow2", "seed.iso")]
    assert lab.logs() == [f"{blueprint.domain}.1.console.log"]


def test_creating_again_is_success_and_changes_nothing(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, b"seed")
    before = lab.volumes()
    lab.hypervisor.create_machine(blueprint, b"seed")
    assert lab.volumes() == before
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_a_new_incarnation_replaces_the_old_body_and_its_disks(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, b"seed")
    lab.hypervisor.create_machine(new_body(blueprint), None)
    seen = see(lab, blueprint.domain)
    assert seen is not None
    assert (seen.incarnation, seen.power) == (2, Power.RUNNING)
    own = [name for name in lab.volumes() if name.startswith(f"{blueprint.domain}.")]
    assert own == [f"{blueprint.domain}.2.qcow2"]
    assert lab.logs() == [f"{blueprint.domain}.2.console.log"]


def test_a_machine_needs_its_image(lab: Lab, blueprint: Blueprint) -> None:
    missing = replace(blueprint, image=replace(blueprint.image, digest="f" * 64))
    with pytest.raises(HostError):
        lab.hypervisor.create_machine(missing, None)
    assert power(lab, blueprint.domain) is Power.ABSENT


def test_an_image_that_is_not_what_was_imported_is_refused(lab: Lab, image: Image) -> None:
    with pytest.raises(HostError, match="is not what was imported"):
        lab.hypervisor.ensure_image(replace(image, digest="e" * 64), lab.image_file)
    assert not [name for name in lab.volumes() if "e" * 64 in name]


def test_removing_an_image_twice_is_success(lab: Lab, image: Image) -> None:
    lab.hypervisor.remove_image(image.digest)
    lab.hypervisor.remove_image(image.digest)
    assert lab.volumes() == []


def test_shutting_down_ends_even_a_deaf_guest_and_is_idempotent(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    assert power(lab, blueprint.domain) is Power.STOPPED
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    lab.hypervisor.start_machine(blueprint.domain)
    lab.hypervisor.start_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_a_hibernated_machine_is_off_until_it_starts_again(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    for _ in range(2):
        lab.hypervisor.hibernate_machine(blueprint.domain)
        assert power(lab, blueprint.domain) is Power.HIBERNATED
    lab.hypervisor.start_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_a_machine_that_is_off_has_no_memory_to_save(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    lab.hypervisor.hibernate_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.STOPPED


def test_a_hibernated_machine_leaves_nothing(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.hibernate_machine(blueprint.domain)
    lab.hypervisor.destroy_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.ABSENT


def test_a_killed_machine_is_seen_as_crashed_and_starts_again(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.kill(blueprint.domain)
    wait_until(lambda: power(lab, blueprint.domain) is Power.CRASHED, 10, "the crash is seen")
    lab.hypervisor.start_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_a_vanished_machine_is_absent_and_cannot_be_started(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.vanish(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.ABSENT
    with pytest.raises(NotFound):
        lab.hypervisor.start_machine(blueprint.domain)


def test_destroying_leaves_nothing_and_absent_is_success(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, b"seed")
    lab.hypervisor.destroy_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.ABSENT
    assert not [name for name in lab.volumes() if name.startswith(f"{blueprint.domain}.")]
    assert lab.logs() == []
    lab.hypervisor.destroy_machine(blueprint.domain)


def test_disks_without_their_machine_are_removed_too(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, b"seed")
    lab.vanish(blueprint.domain)
    lab.hypervisor.destroy_machine(blueprint.domain)
    assert not [name for name in lab.volumes() if name.startswith(f"{blueprint.domain}.")]
    assert lab.logs() == []


def test_a_domain_of_somebody_else_is_neither_seen_nor_touched(lab: Lab, blueprint: Blueprint) -> None:
    lab.add_foreign(blueprint.domain)
    assert see(lab, blueprint.domain) is None
    with pytest.raises(Conflict):
        lab.hypervisor.create_machine(blueprint, None)
    with pytest.raises(Conflict):
        lab.hypervisor.destroy_machine(blueprint.domain)
    assert lab.has_foreign(blueprint.domain)


def test_a_volume_that_somebody_elses_domain_uses_is_neither_written_nor_removed(
    lab: Lab, blueprint: Blueprint
) -> None:
    theirs = overlay_volume(blueprint.domain, 1)
    lab.add_foreign(f"{lab.prefix}-theirs", theirs)
    with pytest.raises(Conflict, match="not ours; it is left alone"):
        lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.destroy_machine(blueprint.domain)
    assert theirs in lab.volumes()
    assert power(lab, blueprint.domain) is Power.ABSENT


def test_a_volume_that_is_no_overlay_of_ours_is_neither_written_nor_removed(
    lab: Lab, blueprint: Blueprint
) -> None:
    """Whatever it is called: no domain has it, and nobody knows whose it is."""
    theirs = overlay_volume(blueprint.domain, 1)
    lab.put(theirs, b"theirs")
    with pytest.raises(Conflict, match="is not written over an image of ours"):
        lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.destroy_machine(blueprint.domain)
    assert theirs in lab.volumes()
    lab.lose(theirs)
    lab.hypervisor.create_machine(new_body(blueprint), None)
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_overlays_of_ours_and_what_was_left_of_their_making_are_made_anew(lab: Lab, blueprint: Blueprint) -> None:
    lab.put(overlay_volume(blueprint.domain, 1), b"")
    lab.hypervisor.create_machine(blueprint, None)
    lab.vanish(blueprint.domain)
    lab.hypervisor.create_machine(blueprint, b"seed")
    assert power(lab, blueprint.domain) is Power.RUNNING


def kill(lab: Lab, domain: str) -> None:
    """And its host knows."""
    lab.kill(domain)
    wait_until(lambda: power(lab, domain) is Power.CRASHED, 10, "its host knows")


def test_a_machine_whose_disk_was_deleted_says_so_and_can_be_made_anew(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    kill(lab, blueprint.domain)
    lab.lose(overlay_volume(blueprint.domain, 1))
    with pytest.raises(DiskLost):
        lab.hypervisor.start_machine(blueprint.domain)
    again = new_body(blueprint)
    lab.hypervisor.create_machine(again, None)
    assert see(lab, blueprint.domain) == MachineSighting(blueprint.domain, "web-1", 2, Power.RUNNING)


def test_a_base_disk_that_was_deleted_is_brought_again_and_the_machine_keeps_its_own(
    lab: Lab, blueprint: Blueprint, image: Image
) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    kill(lab, blueprint.domain)
    lab.lose(image_volume(lab.prefix, image.digest))
    with pytest.raises(BaseLost):
        lab.hypervisor.start_machine(blueprint.domain)
    lab.hypervisor.ensure_image(image, lab.image_file)
    lab.hypervisor.start_machine(blueprint.domain)
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_a_base_disk_that_was_changed_is_refused_and_its_machines_are_left_alone(
    lab: Lab, blueprint: Blueprint, image: Image
) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    base = image_volume(lab.prefix, image.digest)
    lab.change(base)
    for _ in range(2):
        with pytest.raises(HostError, match="is not what was imported") as refused:
            lab.hypervisor.ensure_image(image, lab.image_file)
        assert base in refused.value.fix
    assert power(lab, blueprint.domain) is Power.RUNNING
    lab.lose(base)  # as the fix says
    lab.hypervisor.ensure_image(image, lab.image_file)
    lab.hypervisor.ensure_image(image, lab.image_file)
    assert power(lab, blueprint.domain) is Power.RUNNING


def test_where_disk_and_base_are_gone_nothing_is_given_up(lab: Lab, blueprint: Blueprint, image: Image) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    kill(lab, blueprint.domain)
    for volume in (overlay_volume(blueprint.domain, 1), image_volume(lab.prefix, image.digest)):
        lab.lose(volume)
    with pytest.raises(HostError) as raised:
        lab.hypervisor.start_machine(blueprint.domain)
    assert type(raised.value) is HostError


def test_console_of_nothing_is_empty(lab: Lab, blueprint: Blueprint) -> None:
    assert lab.hypervisor.console_tail(blueprint.domain, 1) == ""


def test_the_end_of_a_console_is_what_it_has_shown_last(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.say(blueprint.domain, "".join(f"line {number}\r\n" for number in range(1000)))
    assert lab.hypervisor.console_tail(blueprint.domain, 1, size=15) == "998\nline 999"
    lab.say(blueprint.domain, "the last one\r\n")
    assert lab.hypervisor.console_tail(blueprint.domain, 1, size=17) == "9\nthe last one"
    assert lab.hypervisor.console_tail(blueprint.domain, 1, size=2**20).endswith("line 999\nthe last one")


def test_subscribers_are_told_of_changes(lab: Lab, blueprint: Blueprint) -> None:
    told = threading.Event()
    lab.hypervisor.subscribe(told.set)
    lab.hypervisor.create_machine(blueprint, None)
    assert told.wait(5)
    told.clear()
    lab.kill(blueprint.domain)
    assert told.wait(5)


# ---- disks that outlive the machine --------------------------------------------------------------------------


@pytest.fixture
def local(lab: Lab) -> ExtraDisk:
    return ExtraDisk(local_volume(lab.prefix, "web-1", 1), "local-storage", 0, 16 * MIB)


@pytest.fixture
def drive(lab: Lab) -> ExtraDisk:
    return ExtraDisk(drive_volume(lab.prefix, "web", "data", 0), "drive-data", 1, 16 * MIB, is_drive=True)


def with_disks(blueprint: Blueprint, *disks: ExtraDisk) -> Blueprint:
    return replace(blueprint, disks=disks)


def other_machine(blueprint: Blueprint, *disks: ExtraDisk) -> Blueprint:
    made = new_body(blueprint)
    nic = replace(made.nic, forwards=((20023, 22),))
    return replace(made, domain=f"{blueprint.domain}0", member="web-10", nic=nic, disks=disks)


def test_further_disks_are_made_once_and_outlive_body_and_machine(
    lab: Lab, blueprint: Blueprint, local: ExtraDisk, drive: ExtraDisk
) -> None:
    both = {local.volume, drive.volume}
    lab.hypervisor.create_machine(with_disks(blueprint, local, drive), None)
    assert lab.disks_of(blueprint.domain) == both
    lab.hypervisor.create_machine(new_body(with_disks(blueprint, local, replace(drive, must_exist=True))), None)
    assert lab.disks_of(blueprint.domain) == both
    lab.hypervisor.destroy_machine(blueprint.domain)
    assert both <= set(lab.volumes())
    assert {lab.size_of(one) for one in both} == {16 * MIB}


def test_local_storage_is_removed_by_name_and_absent_is_success(
    lab: Lab, blueprint: Blueprint, local: ExtraDisk, drive: ExtraDisk
) -> None:
    later = replace(local, volume=local_volume(lab.prefix, "web-1", 2))
    lab.hypervisor.create_machine(with_disks(blueprint, local), None)
    lab.hypervisor.create_machine(new_body(with_disks(blueprint, later, drive)), None)
    for _ in range(2):
        lab.hypervisor.disks.remove_local_storage("web-1", keep=later.volume)
        assert {later.volume, drive.volume} <= set(lab.volumes())
        assert local.volume not in lab.volumes()
    lab.hypervisor.destroy_machine(blueprint.domain)
    lab.hypervisor.disks.remove_local_storage("web-1")
    assert later.volume not in lab.volumes()
    assert drive.volume in lab.volumes()


def test_a_drive_is_attached_to_a_machine_that_runs_and_stays_so(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    for _ in range(2):
        assert lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
        assert lab.disks_of(blueprint.domain) == {drive.volume}
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    assert lab.disks_of(blueprint.domain) == {drive.volume}
    lab.hypervisor.start_machine(blueprint.domain)
    assert lab.disks_of(blueprint.domain) == {drive.volume}


def test_a_drive_is_attached_to_a_machine_that_is_off(lab: Lab, blueprint: Blueprint, drive: ExtraDisk) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    assert lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
    lab.hypervisor.start_machine(blueprint.domain)
    assert lab.disks_of(blueprint.domain) == {drive.volume}


def test_a_drive_for_a_hibernated_machine_is_there_once_it_goes_on(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.hypervisor.hibernate_machine(blueprint.domain)
    assert lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
    lab.hypervisor.start_machine(blueprint.domain)
    assert lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
    assert lab.disks_of(blueprint.domain) == {drive.volume}


def test_a_bus_that_takes_nothing_while_the_machine_runs_has_it_after_the_next_start(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    sata = Hardware(disk_bus="sata")
    lab.hypervisor.create_machine(replace(blueprint, hardware=sata), None)
    assert not lab.hypervisor.disks.attach(blueprint.domain, [drive], sata)
    assert lab.disks_of(blueprint.domain) == set()
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    lab.hypervisor.start_machine(blueprint.domain)
    assert lab.hypervisor.disks.attach(blueprint.domain, [drive], sata)
    assert lab.disks_of(blueprint.domain) == {drive.volume}


def test_a_drive_grows_while_it_is_attached_and_while_it_is_not(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    lab.hypervisor.create_machine(with_disks(blueprint, drive), None)
    assert lab.hypervisor.disks.attach(blueprint.domain, [replace(drive, size=24 * MIB)], Hardware())
    assert lab.size_of(drive.volume) == 24 * MIB
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    lab.hypervisor.disks.attach(blueprint.domain, [replace(drive, size=32 * MIB)], Hardware())
    assert lab.size_of(drive.volume) == 32 * MIB
    lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
    assert lab.size_of(drive.volume) == 32 * MIB


def test_a_drive_that_another_machine_has_is_neither_attached_nor_removed(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    lab.hypervisor.create_machine(with_disks(blueprint, drive), None)
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.2, never)
    with pytest.raises(Conflict, match="is attached to"):
        lab.hypervisor.create_machine(other_machine(blueprint, drive), None)
    lab.hypervisor.create_machine(other_machine(blueprint), None)
    with pytest.raises(Conflict, match="is attached to"):
        lab.hypervisor.disks.attach(f"{blueprint.domain}0", [drive], Hardware())
    with pytest.raises(Conflict, match="is attached to"):
        lab.hypervisor.disks.remove_drive(drive)
    assert drive.volume in lab.volumes()


def test_a_drive_that_was_there_is_not_made_anew(lab: Lab, blueprint: Blueprint, drive: ExtraDisk) -> None:
    lost = replace(drive, must_exist=True)
    with pytest.raises(HostError, match="is missing"):
        lab.hypervisor.create_machine(with_disks(blueprint, lost), None)
    assert power(lab, blueprint.domain) is Power.ABSENT
    assert drive.volume not in lab.volumes()


def test_removing_a_drive_twice_is_success(lab: Lab, blueprint: Blueprint, drive: ExtraDisk) -> None:
    lab.hypervisor.create_machine(with_disks(blueprint, drive), None)
    lab.hypervisor.destroy_machine(blueprint.domain)
    for _ in range(2):
        lab.hypervisor.disks.remove_drive(drive)
        assert drive.volume not in lab.volumes()


def test_what_somebody_elses_domain_has_is_neither_attached_nor_removed(
    lab: Lab, blueprint: Blueprint, local: ExtraDisk, drive: ExtraDisk
) -> None:
    """Whatever that domain is called."""
    for number, disk in enumerate((local, drive)):
        lab.add_foreign(f"theirs-{lab.prefix}-{number}", disk.volume)
        with pytest.raises(Conflict, match="is attached to"):
            lab.hypervisor.create_machine(with_disks(blueprint, disk), None)
    lab.hypervisor.destroy_machine(blueprint.domain)
    lab.hypervisor.disks.remove_local_storage("web-1")
    with pytest.raises(Conflict, match="is attached to"):
        lab.hypervisor.disks.remove_drive(drive)
    assert {local.volume, drive.volume} <= set(lab.volumes())


def test_a_file_that_was_made_for_no_drive_is_neither_given_to_a_machine_nor_removed(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    lab.put(drive.volume, b"theirs")
    with pytest.raises(Conflict, match="was not made for"):
        lab.hypervisor.create_machine(with_disks(blueprint, drive), None)
    lab.hypervisor.create_machine(blueprint, None)
    with pytest.raises(Conflict, match="was not made for"):
        lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
    lab.hypervisor.disks.remove_drive(drive)
    assert drive.volume in lab.volumes()


def test_what_was_left_of_making_a_disk_is_made_anew(
    lab: Lab, blueprint: Blueprint, local: ExtraDisk, drive: ExtraDisk
) -> None:
    for disk in (local, drive):
        lab.put(disk.volume, b"")
    lab.hypervisor.create_machine(with_disks(blueprint, local, drive), None)
    assert [lab.size_of(one.volume) for one in (local, drive)] == [16 * MIB, 16 * MIB]


def test_a_disk_that_an_earlier_version_made_raw_is_refused_and_stays(
    lab: Lab, blueprint: Blueprint, local: ExtraDisk, drive: ExtraDisk
) -> None:
    raw = {raw_volume(local.volume), raw_volume(drive.volume)}
    for name in raw:
        lab.put(name, b"data of a guest")
    for disk in (local, drive, replace(drive, must_exist=True)):
        with pytest.raises(HostError, match="is a raw disk"):
            lab.hypervisor.create_machine(with_disks(blueprint, disk), None)
    lab.hypervisor.destroy_machine(blueprint.domain)
    lab.hypervisor.disks.remove_local_storage("web-1")
    with pytest.raises(HostError, match="is a raw disk"):
        lab.hypervisor.disks.remove_drive(drive)
    assert {name for name in lab.volumes() if "-image-" not in name} == raw


def test_a_base_disk_that_somebody_elses_domain_has_stays(lab: Lab, image: Image) -> None:
    base = image_volume(lab.prefix, image.digest)
    lab.add_foreign(f"theirs-{lab.prefix}", base)
    lab.hypervisor.remove_image(image.digest)
    assert base in lab.volumes()


def test_nothing_is_attached_to_a_domain_of_somebody_else(
    lab: Lab, blueprint: Blueprint, drive: ExtraDisk
) -> None:
    lab.add_foreign(blueprint.domain)
    with pytest.raises(Conflict):
        lab.hypervisor.disks.attach(blueprint.domain, [drive], Hardware())
    assert drive.volume not in lab.volumes()


@pytest.mark.parametrize("is_windows", [False, True])
def test_a_seed_is_gone_for_good_and_the_machine_goes_on_and_boots_without(
    lab: Lab, blueprint: Blueprint, is_windows: bool
) -> None:
    machine = replace(blueprint, hardware=Hardware(is_windows=is_windows))
    lab.hypervisor.create_machine(machine, b"answers" * 1000)
    assert lab.seed_of(machine.domain)
    for _ in range(2):
        lab.hypervisor.remove_seed(machine.domain, 1)
        assert lab.seed_of(machine.domain).strip(b"\0") == b""
        assert power(lab, machine.domain) is Power.RUNNING
    lab.hypervisor.hibernate_machine(machine.domain)
    lab.hypervisor.start_machine(machine.domain)
    assert power(lab, machine.domain) is Power.RUNNING
    lab.hypervisor.shut_down_machine(machine.domain, 0.2, never)
    lab.hypervisor.remove_seed(machine.domain, 1)
    assert lab.volumes() == [name for name in lab.volumes() if "seed" not in name]
    lab.hypervisor.start_machine(machine.domain)
    assert power(lab, machine.domain) is Power.RUNNING


def test_nobody_but_its_owner_may_read_a_seed_or_a_console(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, b"answers")
    kinds = ("seed.iso", "console.log", "qcow2")
    assert {lab.mode_of(f"{blueprint.domain}.1.{kind}") for kind in kinds} == {0o600}


def test_of_a_machine_that_is_not_there_no_seed_is_removed(lab: Lab) -> None:
    with pytest.raises(NotFound):
        lab.hypervisor.remove_seed(f"{lab.prefix}-web-9", 1)


# ---- what a lost record is made of again ---------------------------------------------------------------------


def test_a_survey_finds_machines_with_their_tags_and_disks_and_says_who_else_is_there(
    lab: Lab, blueprint: Blueprint
) -> None:
    volume = drive_volume(lab.prefix, "web", "data", 0)
    disk = ExtraDisk(volume, "drive-data", 1, 16 * MIB, is_drive=True)
    made = replace(blueprint, disks=(disk,), role=Role.STANDBY, created_at=1234.5)
    lab.hypervisor.create_machine(made, None)
    lab.add_foreign(f"{lab.prefix}-web-f0r31")
    found = lab.hypervisor.survey()
    (machine,) = found.machines
    assert (machine.domain, machine.member, machine.power) == (made.domain, "web-1", Power.RUNNING)
    assert (machine.host, machine.zone) == (lab.hypervisor.name, lab.hypervisor.zone)
    assert machine.tag == made.tag()
    assert machine.memory == made.memory
    assert volume in machine.disks
    assert found.volumes[volume] == 16 * MIB
    assert found.foreign == (f"{lab.prefix}-web-f0r31",)


def test_a_mark_says_how_far_a_machine_is_while_it_runs_and_when_it_is_off(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    serving = replace(blueprint.tag(), state=TagState.SERVING)
    for _ in range(2):
        lab.hypervisor.mark_machine(blueprint.domain, replace(serving, image=""))
        assert lab.hypervisor.survey().machines[0].tag == serving
    lab.hypervisor.shut_down_machine(blueprint.domain, 0.1, never)
    assert lab.hypervisor.survey().machines[0].tag == serving
    lab.hypervisor.mark_machine(blueprint.domain, replace(serving, state=TagState.STOPPED))
    lab.hypervisor.start_machine(blueprint.domain)
    assert lab.hypervisor.survey().machines[0].tag == replace(serving, state=TagState.STOPPED)


def test_nothing_of_others_is_marked(lab: Lab, blueprint: Blueprint) -> None:
    lab.hypervisor.create_machine(blueprint, None)
    lab.add_foreign(f"{lab.prefix}-web-f0r31")
    with pytest.raises(Conflict, match="not ours"):
        lab.hypervisor.mark_machine(f"{lab.prefix}-web-f0r31", blueprint.tag())


def test_a_survey_of_a_host_without_anything_makes_nothing_there(lab: Lab) -> None:
    found = lab.hypervisor.survey()
    assert (found.machines, found.foreign) == ((), ())
    assert all("drive" not in name for name in found.volumes)
