"""Local storage and drives as declared: what is refused, and what of them shapes a machine."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.models.naming import domain_name, drive_serial, drive_volume, local_volume
from orchestrator.models.spec import model_digest
from orchestrator.models.storage import MAX_DRIVES
from tests.builders import MIB, make_image, make_spec

LOCAL = {"size": "1GiB", "mount": "/mnt/local"}
WINDOWS = {"answer_file": "unattend", "windows": {"administrator_password_file": "password"}}


def drive(name: str = "data", size: str = "1GiB", **fields: Any) -> dict[str, Any]:
    return {"name": name, "size": size, "mount": f"/mnt/{name}", **fields}


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as error:
        make_spec(**fields)
    return str(error.value)


def digest(**fields: Any) -> str:
    return model_digest(make_spec(**fields), make_image().digest)


def test_sizes_are_bytes_and_mounts_paths() -> None:
    spec = make_spec(local_storage=LOCAL, drives=[drive(size="32MiB")])
    assert spec.local_storage is not None
    assert (spec.local_storage.size, spec.local_storage.mount) == (1024 * MIB, "/mnt/local")
    assert [(one.name, one.size, one.mount) for one in spec.drives] == [("data", 32 * MIB, "/mnt/data")]


@pytest.mark.parametrize(
    "mount",
    [
        "/",
        "",
        "mnt/data",
        "/mnt/../etc",
        "/mnt/.",
        "/mnt/data/",
        "/mnt//data",
        "/etc",
        "/root",
        "/dev/x",
        "/a b",
        "/a;b",
    ],
)
def test_a_directory_that_is_no_place_for_a_disk_is_refused(mount: str) -> None:
    assert "local_storage.mount" in refusal(local_storage={"size": "1GiB", "mount": mount})
    assert "drives.0.mount" in refusal(drives=[drive(mount=mount)])


@pytest.mark.parametrize("mount", ["/data", "/mnt/data", "/var/lib/postgresql", "/srv/a-b_c.d+e@f", "/home"])
def test_other_directories_are_taken(mount: str) -> None:
    assert make_spec(drives=[drive(mount=mount)]).drives[0].mount == mount


def test_a_disk_has_at_least_16_mib() -> None:
    assert make_spec(drives=[drive(size="16MiB")]).drives[0].size == 16 * MIB
    assert "drives.0.size" in refusal(drives=[drive(size="15MiB")])
    assert "local_storage.size" in refusal(local_storage={**LOCAL, "size": "1MiB"})


def test_two_disks_on_one_directory_are_refused() -> None:
    said = refusal(local_storage=LOCAL, drives=[drive(mount="/mnt/local")])
    assert "local_storage and drive 'data' are both mounted on /mnt/local" in said
    twice = refusal(drives=[drive("a", mount="/x"), drive("b", mount="/x")])
    assert "drive 'a' and drive 'b' are both mounted on /x" in twice


def test_a_drive_may_lie_within_local_storage_but_not_around_it() -> None:
    assert make_spec(local_storage=LOCAL, drives=[drive(mount="/mnt/local/data")])
    assert make_spec(local_storage=LOCAL, drives=[drive(mount="/mnt/loc")])
    said = refusal(local_storage=LOCAL, drives=[drive(mount="/mnt")])
    assert "local_storage cannot be mounted within drive 'data' (/mnt)" in said


def test_two_drives_of_one_name_are_refused() -> None:
    assert "two drives are named 'data'" in refusal(drives=[drive(), drive(mount="/other")])


@pytest.mark.parametrize("name", ["", "Data", "9a", "a.b", "a_b", "-a", "a-", "a" * 21])
def test_a_drive_name_is_that_of_a_part(name: str) -> None:
    assert "drives.0.name" in refusal(drives=[drive(name, mount="/x")])


def test_at_most_eight_drives() -> None:
    assert len(make_spec(drives=[drive(f"d{number}") for number in range(MAX_DRIVES)]).drives) == MAX_DRIVES
    assert "drives" in refusal(drives=[drive(f"d{number}") for number in range(MAX_DRIVES + 1)])


def test_without_an_answer_file_nobody_would_mount_them() -> None:
    for key, value in (("local_storage", LOCAL), ("drives", [drive()])):
        said = refusal(setup={"answer_file": "none"}, **{key: value})
        assert "'local_storage' and 'drives' need an answer file" in said


def test_a_linux_guest_needs_a_mount_and_windows_gives_letters() -> None:
    bare = {"name": "data", "size": "1GiB"}
    assert "drive 'data' needs a 'mount'" in refusal(drives=[bare])
    assert "local_storage needs a 'mount'" in refusal(local_storage={"size": "1GiB"})
    assert make_spec(setup=WINDOWS, drives=[bare], local_storage={"size": "1GiB"}).drives[0].mount is None


def test_neither_changes_the_model_of_a_set_that_has_none() -> None:
    assert digest() == digest(drives=[])
    # As made before there was local storage: a pool must not be renewed by a new version of Understudy.
    assert digest() == "48c6a7dbdfc2b1c9"


def test_local_storage_shapes_a_machine_and_so_does_which_drives_it_has() -> None:
    shapes: list[dict[str, Any]] = [
        {},
        {"local_storage": LOCAL},
        {"local_storage": {**LOCAL, "size": "2GiB"}},
        {"local_storage": {**LOCAL, "mount": "/x"}},
        {"drives": [drive()]},
        {"drives": [drive(mount="/x")]},
        {"drives": [drive(), drive("logs")]},
    ]
    assert len({digest(**shape) for shape in shapes}) == len(shapes)


def test_the_size_of_a_drive_and_the_order_of_drives_do_not() -> None:
    assert digest(drives=[drive()]) == digest(drives=[drive(size="2GiB")])
    assert digest(drives=[drive("a"), drive("b")]) == digest(drives=[drive("b"), drive("a")])


def test_no_two_sets_mean_the_same_volume() -> None:
    assert drive_volume("p", "web", "data-x", 0) != drive_volume("p", "web-data", "x", 0)
    assert drive_volume("p", "web", "data", 11) != drive_volume("p", "web", "data-1", 1)


@pytest.mark.parametrize("member", ["web-4tz9k", "web-4tz9k-local", "local-web", "drive-web"])
def test_no_volume_that_is_kept_begins_as_those_that_go_with_a_machine(member: str) -> None:
    own = f"{domain_name('p', member)}."
    assert not local_volume("p", "web-4tz9k", 1).startswith(own)
    assert not drive_volume("p", "web", "data", 0).startswith(own)


def test_serials_fit_what_virtio_tells_and_differ() -> None:
    names = ["data", "a" * 14, "a" * 15, "a" * 20, "a" * 19 + "b"]
    serials = [drive_serial(name) for name in names]
    assert serials[0] == "drive-data"
    assert all(len(serial) <= 20 for serial in serials)
    assert len(set(serials)) == len(names)
