"""Files behind machines: those that are gone, and those that somebody else uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.disks import sources_of
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import BaseLost, Conflict, DiskLost, HostError
from orchestrator.models.naming import grown_volume, overlay_volume

_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
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


def check_volumes(domain: str, volumes: Volumes, others: Callable[[], dict[str, str]]) -> None:
    """Before volumes of that machine are made anew. Raises Conflict if somebody else uses one of their names."""
    names = [name for name in volumes.list_names() if name.startswith(f"{domain}.")]
    if not names:
        return
    taken = others()
    for path in map(volumes.path_of, names):
        if path in taken:
            raise Conflict(
                f"volume {path} is a disk of domain {taken[path]!r}, which is not ours; it is left alone",
                "give that domain a disk outside the storage pool of Understudy",
            )
