"""Volumes in a real storage pool."""

from __future__ import annotations

from pathlib import Path

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.volumes import Volumes
from tests.support.installation import installation

CONTENT = b"a secret" * 1000


def test_what_was_wiped_is_gone_also_right_after_it_was_written() -> None:
    """libvirt looks at a volume some time after it was filled, in a thread: one try would seldom come first."""
    with installation() as site:
        volumes = Volumes(LibvirtConnection(site.uri), site.prefix, site.root / "volumes")
        for number in range(40):
            name = f"seed-{number}"
            path = Path(volumes.make_filled(name, CONTENT))
            assert path.read_bytes() == CONTENT
            volumes.wipe(volumes.find(name))
            assert path.read_bytes().strip(b"\0") == b""
            volumes.remove(name)
        volumes.remove_pool()
