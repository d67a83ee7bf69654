"""Taking the seed out of a machine that has read it: of its definition, of the running guest, of its host."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.errors import from_libvirt, translated
from orchestrator.drivers.libvirt.ownership import check_owner
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import HostUnreachable
from orchestrator.models.naming import seed_volume

log = logging.getLogger("understudy.libvirt")


class Seeds:
    """`installation` says whose machines may be changed."""

    def __init__(self, connection: LibvirtConnection, volumes: Volumes, installation: str) -> None:
        self._connection = connection
        self._volumes = volumes
        self._installation = installation

    def remove(self, domain: str, incarnation: int) -> None:
        """Each part may have been done before. Definition first: a machine must never name a file that is gone."""
        name = seed_volume(domain, incarnation)
        with translated(f"cannot take the seed out of {domain!r} on {self._connection.uri}"):
            found = self._connection.get().lookupByName(domain)
            check_owner(found, self._installation)
            volume = self._volumes.find(name)
            if volume is None:
                return
            _take_out(found, name, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            self._volumes.wipe(volume)
            if found.isActive():
                _take_out_now(found, name)
            if not found.isActive() or _find_disk(found, name, 0) is None:
                self._volumes.remove(name)
            # Else its guest does not let go of it. Empty as it is, it stays with the machine: a memory image
            # of the machine could not be resumed without it.


def _find_disk(domain: Any, volume: str, flags: int) -> ElementTree.Element | None:
    root = ElementTree.fromstring(domain.XMLDesc(flags))  # noqa: S314 - libvirtd's own document
    for disk in root.findall("./devices/disk"):
        source = disk.find("source")
        if source is not None and Path(source.get("file", "")).name == volume:
            return disk
    return None


def _take_out(domain: Any, volume: str, affect: int) -> None:
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE if affect == libvirt.VIR_DOMAIN_AFFECT_CONFIG else 0
    disk = _find_disk(domain, volume, flags)
    if disk is None:
        return
    if disk.get("device") != "cdrom":
        domain.detachDeviceFlags(ElementTree.tostring(disk, encoding="unicode"), affect)
        return
    # The drive stays: a guest sees a medium that was taken out.
    for child in [child for child in disk if child.tag in ("source", "backingStore")]:
        disk.remove(child)
    force = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    domain.updateDeviceFlags(ElementTree.tostring(disk, encoding="unicode"), affect | force)


def _take_out_now(domain: Any, volume: str) -> None:
    """As far as its guest agrees, which libvirt waits some seconds for."""
    try:
        _take_out(domain, volume, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        refusal = from_libvirt(error, f"{domain.name()} keeps its empty seed while it runs")
        if isinstance(refusal, HostUnreachable):
            raise
        log.info("%s", refusal)
