"""Files behind machines: those that are gone, those that somebody else uses, and those that are not ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.console_logs import ConsoleLogs
from orchestrator.drivers.libvirt.disk_contents import DiskContents
from orchestrator.drivers.libvirt.disks import sources_of
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import BaseLost, Conflict, DiskLost, HostError
from orchestrator.models.naming import grown_volume, overlay_volume

_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
_OVERLAY = re.compile(r"\.[0-9]+\.(top\.)?qcow2")
_IMAGE = re.compile(r"-image-[0-9a-f]{64}\.qcow2\Z")


def check_disks(domain: Any, incarnation: int, volumes: Volumes) -> None:
    """Of a machine that does not start. Raises DiskLost or BaseLost if that is why. What lies between its overlay
    and its base disk belongs to its disk: nobody can bring it again.

    Where both are gone it may be the whole pool, such as a file system that is not mounted: then nothing may be
    given up, and it is HostError.
    """
    overlay = overlay_volume(domain.name(), incarnation)
    kept = sources_of(domain, _INACTIVE)
    beneath = {Path(path).name for path in sources_of(domain, _INACTIVE, beneath=True) - kept}
    top = {grown_volume(domain.name(), incarnation)} & {Path(path).name for path in kept}
    bases = {name for name in beneath if _IMAGE.search(name)}
    gone = [name for name in sorted({overlay} | top | (beneath - bases)) if not volumes.is_there(name)]
    lost = [name for name in sorted(bases) if not volumes.is_there(name)]
    if lost and gone:
        raise HostError(
            f"cannot start {domain.name()!r}: neither its disk {gone[0]!r} nor its base is in {volumes.directory}",
            "is that file system mounted? If they are lost: understudy reimage SET/INSTANCE",
        )
    if lost:
        raise BaseLost(f"cannot start {domain.name()!r}: its base disk {lost[0]!r} is gone")
    if gone:
        raise DiskLost(f"cannot start {domain.name()!r}: its disk {gone[0]!r} is gone")


def find_others_files(domains: list[Any], is_ours: Callable[[Any], bool]) -> dict[str, str]:
    """File -> name of a domain of somebody else that has it among its disks, or beneath them."""
    found = {}
    for domain in domains:
        if not is_ours(domain):
            for path in sources_of(domain, beneath=True) | sources_of(domain, _INACTIVE, beneath=True):
                found[path] = domain.name()
    return found


class NamedFiles:
    """All files that are named after machines, on one host. Those that domains of others have, and overlays that
    cannot be ours, are neither removed nor written: a name alone proves nothing."""

    def __init__(
        self,
        volumes: Volumes,
        logs: ConsoleLogs,
        prefix: str,
        others_files: Callable[[], dict[str, str]],
    ) -> None:
        self._volumes = volumes
        self._logs = logs
        self._bases = (f"{prefix}-image-", f"{prefix}-golden-")
        self._others_files = others_files

    def check(self, domain: str) -> None:
        """Before they are made anew. Raises Conflict if one of those names is somebody else's."""
        names = [name for name in self._volumes.list_names() if name.startswith(f"{domain}.")]
        if not names:
            return
        taken = self._others_files()
        for path in map(self._volumes.path_of, names):
            if path in taken:
                raise Conflict(
                    f"volume {path} is a disk of domain {taken[path]!r}, which is not ours; it is left alone",
                    "give that domain a disk outside the storage pool of Understudy",
                )
        for path in self._find_foreign(domain, names):
            raise Conflict(
                f"{path} is not written over an image of ours, and is not empty: it is left alone",
                "move it out of the storage pool, or give it another name",
            )

    def remove(self, domain: str) -> None:
        """Absent is success."""
        self._volumes.refresh()
        names = [name for name in self._volumes.list_names() if name.startswith(f"{domain}.")]
        if names:
            kept = {*self._others_files(), *self._find_foreign(domain, names)}
            for name in names:
                if self._volumes.path_of(name) not in kept:
                    self._volumes.remove(name)
        self._logs.remove_all_of(domain)

    def _find_foreign(self, domain: str, names: list[str]) -> list[str]:
        """Paths of overlays among them that are not ours: ours lie over an image, a golden image or an overlay of
        the machine, or were left empty when their making was cut short."""
        ours = (*self._bases, f"{domain}.")
        found = []
        for name in names:
            if _OVERLAY.fullmatch(name.removeprefix(domain)):
                contents = DiskContents(self._volumes, name)
                if not contents.base.startswith(ours) and not contents.is_blank():
                    found.append(self._volumes.path_of(name))
        return found
