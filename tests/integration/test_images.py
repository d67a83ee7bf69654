"""Importing real files with the real qemu-img: what is taken, what is refused, what is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.drivers.qemu_img import convert_image, find_difference, inspect_image
from orchestrator.errors import Conflict, ImageRefused, SpecError, UnderstudyError
from orchestrator.imaging.files import copy_file
from orchestrator.imaging.importing import import_image
from orchestrator.imaging.repository import Repository
from tests.support.repository import add, leftovers, qemu_img, quiet


def test_a_qcow2_becomes_an_immutable_version_named_by_content(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    image = add(repository, file)
    kept = repository.paths.images / f"{image.digest}.qcow2"
    assert (image.ref, image.virtual_size) == ("web:1", 16 * 2**20)
    assert kept.stat().st_mode & 0o777 == 0o444
    done = subprocess.run(["sha256sum", kept], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(image.digest)
    assert list(repository.paths.work.iterdir()) == []


def test_the_same_content_again_is_the_version_it_already_is(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    assert add(repository, file) == add(repository, file)
    qemu_img("create", "-f", "qcow2", file, "32M")
    assert add(repository, file).ref == "web:2"
    assert len(list(repository.paths.images.iterdir())) == 2


def test_an_image_whose_file_is_gone_gets_it_back_when_it_is_added_again(
    repository: Repository, tmp_path: Path
) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    image = add(repository, file)
    kept = repository.paths.images / f"{image.digest}.qcow2"
    kept.unlink()
    assert add(repository, file) == image
    assert kept.stat().st_mode & 0o777 == 0o444
    assert repository.store.list_images() == [image]


def test_a_raw_disk_is_converted_with_its_content(repository: Repository, tmp_path: Path) -> None:
    content = bytearray(b"\x00" * (4 * 2**20))
    content[510:512] = b"\x55\xaa"
    content[2**20 : 2**20 + 5] = b"hello"
    file = tmp_path / "disk.raw"
    file.write_bytes(content)
    image = add(repository, file)
    back = tmp_path / "back.raw"
    qemu_img("convert", "-O", "raw", repository.paths.images / f"{image.digest}.qcow2", back)
    assert back.read_bytes() == content


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
    ],
)
def test_disks_of_other_hypervisors_are_converted_with_their_content(
    repository: Repository, tmp_path: Path, kind: str, options: str
) -> None:
    content = bytearray(8 * 2**20)
    content[510:512] = b"\x55\xaa"
    content[3 * 2**20 : 3 * 2**20 + 5] = b"hello"
    raw, file, back = tmp_path / "disk.raw", tmp_path / f"disk.{kind}", tmp_path / "back.raw"
    raw.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", kind, "-o", options, raw, file)
    image = add(repository, file)
    kept = repository.paths.images / f"{image.digest}.qcow2"
    assert kept.read_bytes().startswith(b"QFI\xfb")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", kept, back)
    assert back.read_bytes()[: len(content)] == content
    assert not back.read_bytes()[len(content) :].strip(b"\0")
    assert list(repository.paths.work.iterdir()) == []


def test_a_vhd_of_another_maker_keeps_its_last_sectors(repository: Repository, tmp_path: Path) -> None:
    """qemu-img takes the size of such a disk from its geometry, a little less, unless it is told otherwise."""
    raw, file, back = tmp_path / "disk.raw", tmp_path / "disk.vhd", tmp_path / "back.raw"
    size = 10_000_384
    raw.write_bytes(bytes(510) + b"\x55\xaa" + bytes(size - 512 - 4) + b"last")
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, file)
    content = bytearray(file.read_bytes())
    footer = content[-512:]
    footer[28:32], footer[64:68] = b"vbox", bytes(4)
    footer[56:60] = (287).to_bytes(2, "big") + bytes([4, 17])  # 19516 of its 19532 sectors
    footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
    file.write_bytes(content[:-512] + footer)
    image = add(repository, file)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", repository.paths.images / f"{image.digest}.qcow2", back)
    assert back.read_bytes()[:size].endswith(b"last")


def test_a_checksum_decides_whether_a_file_is_what_was_meant(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", file, "16M")
    with pytest.raises(ImageRefused, match="is not what was meant"):
        import_image(repository, "web", file, quiet, "0" * 64)
    assert leftovers(repository) == []
    with pytest.raises(SpecError, match="is no sha256"):
        import_image(repository, "web", file, quiet, "abc")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert import_image(repository, "web", file, quiet, digest.upper()).ref == "web:1"


def evil_header() -> bytes:
    """Of a qcow2 that names a file of the host, as a guest can write it into the first sector of its disk."""
    name = b"/etc/passwd"
    header = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", 3, 112, len(name), 16, 2**22, 0, 1, 2**17)
    return header + struct.pack(">QIIQQQQII", 2**16, 1, 0, 0, 0, 0, 0, 4, 104) + bytes(8) + name


def write_header(file: Path) -> None:
    with file.open("r+b") as disk:
        disk.write(evil_header())


def test_a_raw_disk_that_pretends_to_be_qcow2_inside_stays_raw(tmp_path: Path) -> None:
    """Its guest writes a qcow2 header into it once it was found to be raw: nothing looks at the bytes again."""
    file, made, back = make_bootable(tmp_path), tmp_path / "made.qcow2", tmp_path / "back.raw"
    assert inspect_image(file).kind == "raw"
    write_header(file)
    convert_image(file, "raw", made, str(file), lambda _: None)
    assert find_difference(file, "raw", made, str(file), lambda _: None) == ""
    qemu_img("convert", "-f", "qcow2", "-O", "raw", made, back)
    assert back.read_bytes() == file.read_bytes()
    assert inspect_image(made).virtual_size == 2**22  # and names no other file


def test_what_is_written_into_a_disk_while_it_is_added_is_not_in_its_image(
    repository: Repository, tmp_path: Path
) -> None:
    file, back = make_bootable(tmp_path), tmp_path / "back.raw"
    before = file.read_bytes()

    def hear(_percent: float, words: str) -> None:
        if words.startswith("inspecting"):
            write_header(file)

    image = import_image(repository, "web", file, hear)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", repository.file(image.digest), back)
    assert back.read_bytes() == before


def test_a_raw_disk_that_begins_with_a_qcow2_header_is_judged_as_one(
    repository: Repository, tmp_path: Path
) -> None:
    file = make_bootable(tmp_path)
    write_header(file)
    assert file.read_bytes()[510:512] == b"\x55\xaa"
    with pytest.raises(ImageRefused, match="names the backing file '/etc/passwd'"):
        add(repository, file)
    assert leftovers(repository) == []


def test_a_raw_disk_with_a_qcow2_in_its_partition_is_raw(repository: Repository, tmp_path: Path) -> None:
    file, back = make_bootable(tmp_path), tmp_path / "back.raw"
    with file.open("r+b") as disk:
        disk.seek(2**20)
        disk.write(evil_header())
    image = add(repository, file)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", repository.file(image.digest), back)
    assert back.read_bytes() == file.read_bytes()


def make_with_host_file(directory: Path) -> Path:
    file = directory / "evil.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", file, "1M")
    return file


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


def make_hostile_header(directory: Path, name: str, *, by_extension: bool) -> Path:
    """A qcow2 header and nothing else, which names a file to open: as its data file or as its backing file."""
    begin = 104 + 8 + (len(name) + 7) // 8 * 8 + 8 if by_extension else 104 + 8
    backing = (0, 0) if by_extension else (begin, len(name))
    header = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", 3, *backing, 16, 2**20, 0, 1, 2**17)
    header += struct.pack(">QIIQQQQII", 2**16, 1, 0, 0, 4 if by_extension else 0, 0, 0, 4, 104)
    if by_extension:
        header += struct.pack(">II", 0x44415441, len(name)) + name.encode().ljust((len(name) + 7) // 8 * 8, b"\0")
    header += bytes(8) + (b"" if by_extension else name.encode())
    file = directory / "hostile.qcow2"
    file.write_bytes(header.ljust(2**18, b"\0"))
    return file


@pytest.mark.parametrize("by_extension", [True, False])
@pytest.mark.parametrize("kind", ["json", "url"])
def test_nothing_that_a_header_names_is_asked_for(
    repository: Repository, tmp_path: Path, kind: str, by_extension: bool
) -> None:
    """qemu-img of some versions opens it while it only looks at the file."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        remote = {"driver": "nbd", "server": {"type": "inet", "host": "127.0.0.1", "port": str(port)}}
        name = (
            f"json:{json.dumps({'driver': 'raw', 'file': remote})}"
            if kind == "json"
            else f"nbd://127.0.0.1:{port}/x"
        )
        file = make_hostile_header(tmp_path, name, by_extension=by_extension)
        with pytest.raises(ImageRefused, match="nbd"):
            import_image(repository, "evil", file, lambda percent, words: None)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert list(repository.paths.images.iterdir()) == []


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


def make_flat_vmdk(directory: Path) -> Path:
    file = directory / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", file, "8M")
    return file


def make_vmdk_of_a_host_file(directory: Path) -> Path:
    """A sparse header without a capacity, whose descriptor names a file of the host."""
    file = directory / "evil.vmdk"
    qemu_img("create", "-f", "vmdk", file, "8M")
    content = bytearray(file.read_bytes())
    content[12:20] = bytes(8)
    content[512:1536] = b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 16 FLAT "/etc/passwd" 0\n'.ljust(
        1024
    )
    file.write_bytes(content)
    return file


def make_vmdk_snapshot(directory: Path) -> Path:
    base, file = directory / "base.vmdk", directory / "top.vmdk"
    qemu_img("create", "-f", "vmdk", base, "8M")
    qemu_img("create", "-f", "vmdk", "-b", base, "-F", "vmdk", file)
    return file


def make_vmdk_with_a_hidden_parent(directory: Path) -> Path:
    """The header points elsewhere for its descriptor; qemu-img reads the one behind the header."""
    file = make_vmdk_snapshot(directory)
    content = bytearray(file.read_bytes())
    content[28:36] = (64).to_bytes(8, "little")
    file.write_bytes(content)
    return file


def make_cut_off_vhd(directory: Path) -> Path:
    file = directory / "cut.vhd"
    file.write_bytes(b"conectix and no more")
    return file


def make_differencing_vhd(directory: Path) -> Path:
    file = directory / "diff.vhd"
    qemu_img("create", "-f", "vpc", file, "8M")
    content = bytearray(file.read_bytes())
    for start in (0, len(content) - 512):
        content[start + 60 : start + 64] = (4).to_bytes(4, "big")
    file.write_bytes(content)
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
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100"
    # qemu-img times its key derivation, and gives up where the clock of its processor time is too coarse.
    for _ in range(10):
        with contextlib.suppress(subprocess.CalledProcessError):
            qemu_img("create", "--object", secret, "-f", "qcow2", "-o", options, file, "8M")
            return file
    raise AssertionError("qemu-img makes no encrypted image")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_with_backing, "names the backing file"),
        (make_with_host_file, "names the backing file '/etc/passwd'"),
        (make_with_json_backing, "names the backing file"),
        (make_with_data_file, "keeps its data in another file"),
        (make_truncated, "truncated"),
        (make_truncated_compressed, "truncated|damaged"),
        (make_flat_vmdk, "keeps its data in other files"),
        (make_vmdk_of_a_host_file, "keeps its data in other files"),
        (make_vmdk_snapshot, "a snapshot of another VMDK"),
        (make_vmdk_with_a_hidden_parent, "a snapshot of another VMDK"),
        (make_differencing_vhd, "a differencing VHD"),
        (make_cut_off_vhd, "a VHD that is cut off"),
        (make_text, "neither a qcow2, VHD, VHDX or VMDK image nor a bootable raw disk"),
        (make_empty, "is empty"),
        (make_luks, "encrypted"),
        (lambda directory: directory / "missing", "there is no file"),
        (lambda directory: directory, "is not a file"),
    ],
)
def test_what_is_refused_leaves_nothing(repository: Repository, tmp_path: Path, make: object, words: str) -> None:
    assert callable(make)
    file = make(tmp_path)
    with pytest.raises(ImageRefused, match=words) as caught:
        add(repository, file)
    assert str(file) in str(caught.value)
    assert leftovers(repository) == []
    assert repository.store.list_images() == []


def make_bootable(directory: Path, size: int = 2**22) -> Path:
    file = directory / "bootable.raw"
    content = bytearray(size)
    content[510:512] = b"\x55\xaa"
    file.write_bytes(content)
    return file


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory on another file system than the others."""
    with tempfile.TemporaryDirectory(prefix="understudy-test-", dir="/dev/shm") as directory:
        yield Path(directory)


def test_a_repository_on_a_file_system_of_its_own_takes_images(
    repository: Repository, tmp_path: Path, elsewhere: Path
) -> None:
    assert elsewhere.stat().st_dev != repository.paths.work.stat().st_dev
    repository.paths.images.rmdir()
    repository.paths.images.symlink_to(elsewhere)
    said: list[tuple[float, str]] = []
    image = import_image(repository, "web", make_bootable(tmp_path), lambda *told: said.append(told))
    assert "taking it into the repository, 0 of 0 MiB" in [words for _, words in said]
    (file,) = repository.paths.images.iterdir()
    assert (file.name, file.stat().st_mode & 0o7777) == (f"{image.digest}.qcow2", 0o444)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == image.digest
    assert list(repository.paths.work.iterdir()) == []


def test_a_file_from_another_file_system_is_taken(repository: Repository, tmp_path: Path, elsewhere: Path) -> None:
    assert add(repository, make_bootable(elsewhere)).version == 1


def test_a_file_that_cannot_be_read_is_refused_by_name(repository: Repository) -> None:
    with pytest.raises(ImageRefused, match=r"cannot read image /proc/self/mem: Input/output error"):
        add(repository, Path("/proc/self/mem"))
    assert leftovers(repository) == []


LIMITED = """
import resource, sys
from pathlib import Path
from tests.support.repository import add, open_repository
repository = open_repository(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    add(repository, Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("most", [2**20, 2**22 + 2**16], ids=["its copy", "what it is converted to"])
def test_a_file_that_is_too_large_for_the_file_system_is_told_as_such(
    repository: Repository, tmp_path: Path, most: int
) -> None:
    """A process may not write larger files, as on a file system that cannot hold them."""
    file = make_bootable(tmp_path)
    with file.open("r+b") as disk:
        disk.seek(4096)
        disk.write(os.urandom(2**22 - 4096))
    command = [sys.executable, "-c", LIMITED, str(repository.paths.root), str(file), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "free space, or give another --state-dir" in done.stdout
    assert done.stdout.startswith("HostFull adding" if most < 2**22 else "HostFull cannot convert")
    assert leftovers(repository) == []


def test_a_repository_that_cannot_be_written_is_told_as_such(repository: Repository, tmp_path: Path) -> None:
    repository.paths.images.rmdir()
    repository.paths.images.symlink_to("/proc/self/fdinfo")  # where nobody may make anything
    with pytest.raises(UnderstudyError, match=r"adding .*bootable.raw failed: .* \(.*/images/import-") as caught:
        add(repository, make_bootable(tmp_path))
    assert "check the rights and the file system" in caught.value.fix
    repository.paths.images.unlink()
    repository.paths.images.mkdir()
    assert add(repository, tmp_path / "bootable.raw").ref == "web:1"
    assert list(repository.paths.work.iterdir()) == []


@pytest.mark.parametrize("name", ["Web", "a:1", "", "a/b", "-a", "ä"])
def test_names_that_are_none(repository: Repository, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="cannot be an image's name"):
        add(repository, tmp_path, name)


def test_conflict_is_an_operators_mistake() -> None:
    assert Conflict("x").exit_code == ImageRefused("x").exit_code == 2


@pytest.mark.parametrize("source", ["/proc/version", "/bin/sh"])
def test_a_copy_is_whole_whatever_the_file_system_can_do(tmp_path: Path, source: str) -> None:
    """The kernel copies the second by itself; of the first it does not even know the size."""
    copy_file(Path(source), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == Path(source).read_bytes()
