"""Importing real files with the real qemu-img: what is taken, what is refused, what is left behind."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from orchestrator.config.paths import StatePaths
from orchestrator.drivers.keys import SystemClock
from orchestrator.errors import Conflict, ImageRefused, SpecError
from orchestrator.imaging.importing import import_image, remove_image
from orchestrator.models.members import Image
from orchestrator.store import Store, open_store


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    made = StatePaths(tmp_path / "state")
    made.ensure()
    return made


@pytest.fixture
def store(paths: StatePaths) -> Store:
    return open_store(f"sqlite:///{paths.database}", SystemClock().now)


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def quiet(_percent: float, _words: str) -> None:
    pass


def add(store: Store, paths: StatePaths, file: Path, name: str = "web") -> Image:
    return import_image(store, paths, name, file, quiet)


def leftovers(paths: StatePaths) -> list[Path]:
    return [*paths.work.iterdir(), *paths.images.iterdir()]


def test_a_qcow2_becomes_an_immutable_version_named_by_content(
    store: Store, paths: StatePaths, tmp_path: Path
) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    image = add(store, paths, file)
    kept = paths.images / f"{image.digest}.qcow2"
    assert (image.ref, image.virtual_size) == ("web:1", 16 * 2**20)
    assert kept.stat().st_mode & 0o777 == 0o444
    done = subprocess.run(["sha256sum", kept], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(image.digest)
    assert list(paths.work.iterdir()) == []


def test_the_same_content_again_is_the_version_it_already_is(
    store: Store, paths: StatePaths, tmp_path: Path
) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    assert add(store, paths, file) == add(store, paths, file)
    qemu_img("create", "-f", "qcow2", file, "32M")
    assert add(store, paths, file).ref == "web:2"
    assert len(list(paths.images.iterdir())) == 2


def test_a_raw_disk_is_converted_with_its_content(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    content = bytearray(b"\x00" * (4 * 2**20))
    content[510:512] = b"\x55\xaa"
    content[2**20 : 2**20 + 5] = b"hello"
    file = tmp_path / "disk.raw"
    file.write_bytes(content)
    image = add(store, paths, file)
    back = tmp_path / "back.raw"
    qemu_img("convert", "-O", "raw", paths.images / f"{image.digest}.qcow2", back)
    assert back.read_bytes() == content


def test_a_raw_disk_that_pretends_to_be_qcow2_inside_stays_raw(
    store: Store, paths: StatePaths, tmp_path: Path
) -> None:
    """The guest of a raw disk wrote a qcow2 header into it that names a host file."""
    evil = tmp_path / "evil.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", evil, "1M")
    with pytest.raises(ImageRefused, match="names the backing file '/etc/passwd'"):
        add(store, paths, evil)
    assert leftovers(paths) == []


def make_with_backing(directory: Path) -> Path:
    base, file = directory / "base.qcow2", directory / "top.qcow2"
    qemu_img("create", "-f", "qcow2", base, "8M")
    qemu_img("create", "-f", "qcow2", "-b", base, "-F", "qcow2", file)
    return file


def make_with_json_backing(directory: Path) -> Path:
    file = directory / "json.qcow2"
    name = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "/etc/passwd"}})
    qemu_img("create", "-u", "-f", "qcow2", "-b", f"json:{name}", "-F", "raw", file, "8M")
    return file


def make_with_data_file(directory: Path) -> Path:
    file = directory / "data.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={directory / 'outer.raw'}", file, "8M")
    return file


def make_truncated(directory: Path) -> Path:
    raw, file = directory / "full.raw", directory / "full.qcow2"
    raw.write_bytes(bytes(range(256)) * 4096 * 8)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def make_truncated_compressed(directory: Path) -> Path:
    raw, file = directory / "full.raw", directory / "small.qcow2"
    raw.write_bytes(b"".join(hashlib.sha256(str(index).encode()).hexdigest().encode() for index in range(2**14)))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, file)
    file.write_bytes(file.read_bytes()[:-5000])
    return file


def make_vmdk(directory: Path) -> Path:
    file = directory / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", file, "8M")
    return file


def make_text(directory: Path) -> Path:
    file = directory / "notes.txt"
    file.write_text("not an image\n" * 200)
    return file


def make_empty(directory: Path) -> Path:
    file = directory / "empty"
    file.touch()
    return file


def make_luks(directory: Path) -> Path:
    file = directory / "luks.qcow2"
    secret = "secret,id=s,data=abc"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    qemu_img("create", "--object", secret, "-f", "qcow2", "-o", options, file, "8M")
    return file


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_with_backing, "names the backing file"),
        (make_with_json_backing, "names the backing file"),
        (make_with_data_file, "keeps its data in another file"),
        (make_truncated, "truncated"),
        (make_truncated_compressed, "truncated|damaged"),
        (make_vmdk, "VMDK"),
        (make_text, "neither a qcow2 image nor a bootable raw disk"),
        (make_empty, "is empty"),
        (make_luks, "encrypted"),
        (lambda directory: directory / "missing", "there is no file"),
        (lambda directory: directory, "is not a file"),
    ],
)
def test_what_is_refused_leaves_nothing(
    store: Store, paths: StatePaths, tmp_path: Path, make: object, words: str
) -> None:
    assert callable(make)
    file = make(tmp_path)
    with pytest.raises(ImageRefused, match=words) as caught:
        add(store, paths, file)
    assert str(file) in str(caught.value)
    assert leftovers(paths) == []
    assert store.list_images() == []


@pytest.mark.parametrize("name", ["Web", "a:1", "", "a/b", "-a", "ä"])
def test_names_that_are_none(store: Store, paths: StatePaths, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="cannot be an image's name"):
        add(store, paths, tmp_path, name)


def test_removing_keeps_content_that_another_version_shares(
    store: Store, paths: StatePaths, tmp_path: Path
) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    one, two = add(store, paths, file, "one"), add(store, paths, file, "two")
    removed: list[str] = []
    remove_image(store, paths, one, removed.append)
    assert (removed, (paths.images / f"{two.digest}.qcow2").exists()) == ([], True)
    remove_image(store, paths, two, removed.append)
    assert (removed, list(paths.images.iterdir())) == ([two.digest], [])


def test_conflict_is_an_operators_mistake() -> None:
    assert Conflict("x").exit_code == ImageRefused("x").exit_code == 2
