"""Base disks in a real storage pool: brought once, and not used any more once they are not what was brought."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.libvirt.base_images import BaseImages
from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import HostError
from orchestrator.models.members import Image
from orchestrator.models.naming import image_volume
from tests.support.changed_file import change_file
from tests.support.installation import installation

CONTENT = b"a disk" * 100_000


class Bases:
    """One image, its file, and its base disk on the host; `read` counts how often that was hashed."""

    def __init__(self, root: Path, prefix: str, uri: str) -> None:
        self.prefix, self.uri = prefix, uri
        self.volumes = CountingVolumes(LibvirtConnection(uri), prefix, root / "volumes")
        self.images = BaseImages(self.volumes, prefix, is_privileged=True)
        self.image = Image("web", 1, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), 2**20, 0.0, "a test")
        self.file = root / "image.qcow2"
        self.file.write_bytes(CONTENT)
        self.name = image_volume(prefix, self.image.digest)
        self.base = root / "volumes" / self.name
        self.mark = self.base.with_name(f"{self.name}.verified")

    def ensure(self) -> int:
        """How often it was hashed."""
        before = self.volumes.hashed
        self.images.ensure(self.image, self.file)
        return self.volumes.hashed - before


class CountingVolumes(Volumes):
    hashed = 0

    def sha256_of(self, name: str) -> str:
        self.hashed += 1
        return super().sha256_of(name)


@pytest.fixture
def bases() -> Iterator[Bases]:
    with installation() as site:
        made = Bases(site.root, site.prefix, site.uri)
        try:
            yield made
        finally:
            for name in made.volumes.list_names():
                made.volumes.remove(name)
            made.volumes.remove_pool()


def test_a_base_disk_is_hashed_on_its_way_and_then_not_again(bases: Bases) -> None:
    assert [bases.ensure() for _ in range(3)] == [0, 0, 0]
    assert bases.base.read_bytes() == CONTENT
    assert bases.mark.read_text(encoding="ascii").split()[0] == str(len(CONTENT))


def test_one_that_was_only_touched_is_hashed_once(bases: Bases) -> None:
    bases.ensure()
    os.utime(bases.base)
    assert [bases.ensure() for _ in range(2)] == [1, 0]
    copy = bases.base.with_name("copy")
    copy.write_bytes(CONTENT)
    copy.rename(bases.base)  # as another inode
    assert [bases.ensure() for _ in range(2)] == [1, 0]


def test_one_that_was_changed_is_refused_until_it_is_moved_away(bases: Bases) -> None:
    bases.ensure()
    change_file(bases.base)
    changed = bases.base.read_bytes()
    for _ in range(2):
        with pytest.raises(HostError, match="is not what was imported as web:1: it was changed") as refused:
            bases.ensure()
        assert (
            f"move it away: it is brought again. Then reimage the machines that were made on it: {bases.base}"
            == (refused.value.fix)
        )
    assert bases.base.read_bytes() == changed  # machines may run on it
    bases.base.rename(bases.base.with_name("aside"))
    bases.ensure()
    assert bases.base.read_bytes() == CONTENT


def test_a_mark_of_an_older_version_says_nothing_of_the_state(bases: Bases) -> None:
    bases.ensure()
    bases.mark.write_bytes(b"")
    assert [bases.ensure() for _ in range(2)] == [1, 0]
    bases.mark.write_bytes(b"")
    change_file(bases.base)
    with pytest.raises(HostError, match="is not what was imported"):
        bases.ensure()


def test_an_upload_that_was_cut_short_is_made_anew_also_after_one_that_was_lost(bases: Bases) -> None:
    bases.ensure()
    bases.base.unlink()
    bases.file.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(HostError):
        bases.ensure()
    assert not bases.mark.exists()
    bases.base.write_bytes(CONTENT[:1000])  # where a controller was killed
    bases.volumes.refresh()
    bases.file.write_bytes(CONTENT)
    bases.ensure()
    assert bases.base.read_bytes() == CONTENT


class Elsewhere(LibvirtConnection):
    """This machine's libvirt under the URI of another: files are to be read through libvirt."""

    def __init__(self, here: LibvirtConnection) -> None:
        super().__init__("qemu+ssh://h2.example/system")
        self._here = here

    def get(self) -> Any:
        return self._here.get()


def test_on_a_host_elsewhere_it_is_hashed_through_a_stream(bases: Bases) -> None:
    bases.ensure()
    elsewhere = Elsewhere(LibvirtConnection(bases.uri))
    volumes = Volumes(elsewhere, bases.prefix, bases.volumes.directory)
    assert volumes.sha256_of(bases.name) == bases.image.digest
    images = BaseImages(volumes, bases.prefix, is_privileged=True)
    images.ensure(bases.image, bases.file)
    change_file(bases.base)
    with pytest.raises(HostError, match="is not what was imported"):
        images.ensure(bases.image, bases.file)
