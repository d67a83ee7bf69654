"""The Disks port on one libvirtd: volumes that outlive the machines they are attached to.

They are qcow2: at the beginning of a raw file, where libvirt looks for a format whenever it refreshes the pool, a
guest could have written whatever it likes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.disk_contents import DiskContents
from orchestrator.drivers.libvirt.errors import from_libvirt, translated
from orchestrator.drivers.libvirt.ownership import check_owner
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import Conflict, HostError, HostUnreachable
from orchestrator.models.machine import Hardware
from orchestrator.models.naming import RAW_ENDING, local_volumes, raw_volume
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
        return tuple(self._ensure(disk, domain, holders) for disk in disks)

    def _ensure(self, disk: ExtraDisk, domain: str, holders: Mapping[str, Sequence[str]]) -> str:
        volume = self._find(disk)
        if volume is None:
            return self._make(disk)
        path = str(volume.path())
        other = next((name for name in holders.get(path, ()) if name != domain), None)
        if other is not None:
            raise Conflict(f"volume {disk.volume!r} is attached to {other!r}; {domain!r} cannot have it too")
        if path not in holders and not self._is_that(disk, path):
            self._volumes.remove(disk.volume)
            return self._make(disk)
        if int(volume.info()[1]) < disk.size and not self._is_in_use(path):
            volume.resize(disk.size)
        return path

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
        names = [
            name
            for name in self._volumes.list_names()
            if name.startswith(begin) and name != keep and not name.endswith(RAW_ENDING)
        ]
        if not names:
            return
        with translated(f"cannot remove local storage of {member!r} on {self._connection.uri}"):
            held = self._holders()
        for name in names:
            if self._volumes.path_of(name) not in held:
                self._volumes.remove(name)

    def remove_drive(self, disk: ExtraDisk) -> None:
        volume = disk.volume
        with translated(f"cannot remove drive {volume!r} on {self._connection.uri}"):
            found, raw = self._look_for(disk)
            holders = self._holders().get(found.path(), ()) if found is not None else ()
        if holders:
            raise Conflict(f"drive {volume!r} is attached to {holders[0]!r}")
        if found is None and raw:
            raise HostError(
                f"{raw} is a raw disk, as an earlier version made them: it is not removed",
                f"rm {raw}, then the same command again",
            )
        if found is not None and self._is_made_for(disk, DiskContents(self._volumes, volume)):
            self._volumes.remove(volume)

    def _look_for(self, disk: ExtraDisk) -> tuple[Any | None, str]:
        """Its volume; the path of the raw one that it was once, empty without one, or where it is not any more."""
        volume, raw = self._volumes.find(disk.volume), None
        if volume is None:
            raw = self._volumes.find(raw_volume(disk.volume))
        if volume is None and (raw is not None or disk.must_exist):
            self._volumes.refresh()
            volume, raw = self._volumes.find(disk.volume), self._volumes.find(raw_volume(disk.volume))
        return volume, str(raw.path()) if raw is not None and volume is None else ""

    def _find(self, disk: ExtraDisk) -> Any | None:
        """Raises HostError if it is not there and must be, or was made raw once: then it is that disk still."""
        volume, raw = self._look_for(disk)
        if raw:
            new = self._volumes.directory / disk.volume
            raise HostError(
                f"{raw} is a raw disk, as an earlier version made them: a guest could write a format of its "
                "choice at its beginning, so it is neither used nor replaced",
                f"while no machine runs with it: qemu-img convert -f raw -O qcow2 {raw} {new} && "
                f"chmod 600 {new} && rm {raw}; then reimage the instance",
            )
        if volume is None and disk.must_exist:
            raise HostError(
                f"volume {disk.volume!r} of a drive is missing on {self._connection.uri}; "
                "an empty one is not made in its place",
                "bring the file back into the storage pool",
            )
        return volume

    def _make(self, disk: ExtraDisk) -> str:
        return self._volumes.make_disk(disk.volume, disk.size, self._owner(disk))

    def _owner(self, disk: ExtraDisk) -> str:
        return f"{self._installation} {disk.origin}"

    def _is_that(self, disk: ExtraDisk, path: str) -> bool:
        """The file that is there, which no machine has, is that disk; if not, there is nothing in it.

        Raises Conflict if it is neither. That its name is the disk's does not make it ours.
        """
        contents = DiskContents(self._volumes, disk.volume)
        if contents.stands_alone and self._is_made_for(disk, contents):
            return True
        if not disk.must_exist and contents.is_blank():
            return False
        if disk.must_exist or not disk.is_drive:
            raise Conflict(
                f"{path} is not the qcow2 disk that was made under this name; it is left alone",
                "bring that file back, as qcow2 and without a backing file",
            )
        raise Conflict(
            f"{path} was not made for the drive that is to be made there, and is not empty; it is left alone",
            "move it out of the storage pool, or give it another name",
        )

    def _is_made_for(self, disk: ExtraDisk, contents: DiskContents) -> bool:
        """What a machine has had its operator may have replaced since; local storage has its member's name, which
        is no other's."""
        return disk.must_exist or not disk.is_drive or contents.owner == self._owner(disk)

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
