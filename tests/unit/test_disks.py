"""Which disks one machine has, and what its guest is told about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.apply.disks import machine_disks, mount_arguments
from orchestrator.models.members import Member, Role
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive
from tests.builders import MIB, NOW, PREFIX, make_member, make_set, make_spec

LOCAL = {"size": "64MiB", "mount": "/mnt/local"}


def make_storage(*names: str, **fields: Any) -> ScaleSetSpec:
    drives = [{"name": name, "size": "16MiB", "mount": f"/mnt/{name}"} for name in names]
    return make_spec(drives=drives, **fields)


def holder(spec: ScaleSetSpec, *names: str, **fields: Any) -> Member:
    member = make_member(make_set(spec), **fields)
    held = tuple(Drive("web", name, 3, "local", 32 * MIB, member.name, NOW, is_made=True) for name in names)
    return replace(member, drives=held)


def test_local_storage_comes_first_and_drives_by_name_each_in_its_own_place() -> None:
    spec = make_storage("logs", "data", local_storage=LOCAL)
    disks = machine_disks(PREFIX, holder(spec, "logs", "data"), spec)
    assert [(one.volume, one.serial, one.position, one.size) for one in disks] == [
        ("understudy-local.web-00001.1.qcow2", "local-storage", 0, 64 * MIB),
        ("understudy-drive.web.data.3.qcow2", "drive-data", 1, 32 * MIB),
        ("understudy-drive.web.logs.3.qcow2", "drive-logs", 2, 32 * MIB),
    ]
    assert [(one.is_drive, one.must_exist) for one in disks] == [(False, False), (True, True), (True, True)]


def test_a_drive_keeps_its_place_whatever_others_the_machine_has() -> None:
    spec = make_storage("a", "b", "c")
    (only,) = machine_disks(PREFIX, holder(spec, "c"), spec)
    assert only.position == 3


def test_a_drive_that_is_not_declared_any_more_stays_away() -> None:
    spec = make_storage("data")
    assert machine_disks(PREFIX, holder(spec, "old"), spec) == ()


def test_pool_members_have_local_storage_only() -> None:
    spec = make_storage("data", local_storage=LOCAL)
    (local,) = machine_disks(PREFIX, holder(spec, role=Role.STANDBY), spec)
    assert not local.is_drive


def test_local_storage_is_known_by_the_incarnation_it_began_with() -> None:
    spec = make_spec(local_storage=LOCAL)
    member = holder(spec, incarnation=5, storage_since=3)
    assert machine_disks(PREFIX, member, spec)[0].volume == "understudy-local.web-00001.3.qcow2"


def test_an_outer_directory_is_mounted_before_what_is_inside_it() -> None:
    drives = [
        {"name": "inner", "size": "16MiB", "mount": "/srv/a/b"},
        {"name": "outer", "size": "16MiB", "mount": "/srv"},
    ]
    spec = make_spec(drives=drives, local_storage={"size": "16MiB", "mount": "/opt/local"})
    disks = machine_disks(PREFIX, holder(spec, "inner", "outer"), spec)
    assert mount_arguments(disks, spec) == [
        *("local-storage", "local", "/opt/local"),
        *("drive-outer", "outer", "/srv"),
        *("drive-inner", "inner", "/srv/a/b"),
    ]


def test_labels_fit_ext4_and_what_has_no_mount_is_not_told() -> None:
    spec = make_storage("a" * 20)
    assert mount_arguments(machine_disks(PREFIX, holder(spec, "a" * 20), spec), spec)[1] == "a" * 16
    windows = {"answer_file": "unattend", "windows": {"administrator_password_file": "password"}}
    bare = make_spec(setup=windows, local_storage={"size": "16MiB"})
    assert mount_arguments(machine_disks(PREFIX, holder(bare), bare), bare) == []
