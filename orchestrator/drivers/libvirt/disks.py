"""The Disks port on one libvirtd: raw volumes that outlive the machines they are attached to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.errors import from_libvirt, translated
from orchestrator.drivers.libvirt.ownership import check_owner
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import Conflict, HostError, HostUnreachable
from orchestrator.models.machine import Hardware
from orchestrator.models.naming import local_volumes
from orchestrator.models.storage import ExtraDisk
from orchestrator.render.domain import render_disk

log = logging.getLogger("understudy.libvirt")


class LibvirtDisks:
    """`prefix` and `installation` say whose machines are looked at."""

    def __init__(self, connection: LibvirtConnection, volumes: Volumes, prefix: str, installation: str) -> None:
        self._connection = connection
        self._volumes = volumes
        self._prefix = prefix
        self._installation = installation

    def ensure(self, disks: Sequence[ExtraDisk], domain: str) -> tuple[str, ...]:
        """Paths of their volumes, made or grown if need be, for a machine of that name.

        Raises Conflict if any other machine has one, HostError if a volume that must exist is missing.
        """
        holders = self._holders() if disks else {}
        paths = []
        for disk in disks:
            path = self._ensure_volume(disk)
            other = next((name for name in holders.get(path, ()) if name != domain), None)
            if other is not None:
                raise Conflict(f"volume {disk.volume!r} is attached to {other!r}; {domain!r} cannot have it too")
            paths.append(path)
        return tuple(paths)

    def attach(self, domain: str, disks: Sequence[ExtraDisk], hardware: Hardware) -> bool:
        with translated(f"cannot attach disks to {domain!r} on {self._connection.uri}"):
            found = self._connection.get().lookupByName(domain)
            check_owner(found, self._installation)
            kept = sources_of(found, libvirt.VIR_DOMAIN_XML_INACTIVE)
            live = sources_of(found) if found.isActive() else None
            attached = True
            for disk, path in zip(disks, self.ensure(disks, domain), strict=True):
                document = render_disk(disk, path, hardware)
                if path not in kept and found.isPersistent():
                    found.attachDeviceFlags(document, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
                if live is None:
                    continue
                if path in live:
                    _grow_attached(found, path, disk.size)
                else:
                    attached &= _plug_in(found, document)
            return attached

    def remove_local_storage(self, member: str, keep: str = "") -> None:
        begin = local_volumes(self._prefix, member)
        names = [name for name in self._volumes.list_names() if name.startswith(begin) and name != keep]
        if not names:
            return
        with translated(f"cannot remove local storage of {member!r} on {self._connection.uri}"):
            held = self._holders()
        for name in names:
            if self._volumes.path_of(name) not in held:
                self._volumes.remove(name)

    def remove_drive(self, volume: str) -> None:
        with translated(f"cannot remove drive {volume!r} on {self._connection.uri}"):
            found = self._volumes.find(volume)
            holders = self._holders().get(found.path(), ()) if found is not None else ()
        if holders:
            raise Conflict(f"drive {volume!r} is attached to {holders[0]!r}")
        self._volumes.remove(volume)

    def _ensure_volume(self, disk: ExtraDisk) -> str:
        volume = self._volumes.find(disk.volume)
        if volume is None and disk.must_exist:
            self._volumes.refresh()
            volume = self._volumes.find(disk.volume)
            if volume is None:
                raise HostError(
                    f"volume {disk.volume!r} of a drive is missing on {self._connection.uri}; "
                    "an empty one is not made in its place",
                    "bring the file back into the storage pool",
                )
        if volume is None:
            return self._volumes.make_blank(disk.volume, disk.size)
        if int(volume.info()[1]) < disk.size and not self._is_in_use(volume.path()):
            volume.resize(disk.size)
        return str(volume.path())

    def _is_in_use(self, path: str) -> bool:
        """A running machine has it: then only that machine may resize it."""
        running = self._connection.get().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return any(path in sources_of(domain) for domain in running)

    def _holders(self) -> dict[str, tuple[str, ...]]:
        """Path of a disk -> domains that have it, or lie over it, now or from their next start on; whosever."""
        holders: dict[str, tuple[str, ...]] = {}
        inactive = libvirt.VIR_DOMAIN_XML_INACTIVE
        for domain in self._connection.get().listAllDomains(0):
            for path in sources_of(domain, beneath=True) | sources_of(domain, inactive, beneath=True):
                holders[path] = (*holders.get(path, ()), domain.name())
        return holders


def sources_of(domain: Any, flags: int = 0, beneath: bool = False) -> set[str]:
    """Files of its disks, and with `beneath` of what they are written over; none if it is gone by now."""
    with contextlib.suppress(libvirt.libvirtError):
        root = ElementTree.fromstring(domain.XMLDesc(flags))  # noqa: S314 - libvirtd's own document
        path = "./devices/disk//source" if beneath else "./devices/disk/source"
        return {source.get("file", "") for source in root.findall(path)}
    return set()


def _plug_in(domain: Any, document: str) -> bool:
    try:
        domain.attachDeviceFlags(document, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        refusal = from_libvirt(error, f"{domain.name()} takes no disk while it runs")
        if isinstance(refusal, HostUnreachable):
            raise
        log.info("%s", refusal)
        return False
    return True


def _grow_attached(domain: Any, path: str, size: int) -> None:
    if int(domain.blockInfo(path)[0]) < size:
        domain.blockResize(path, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
