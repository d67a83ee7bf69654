"""What the name of a volume says: the other direction of `models.naming`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MEMBER = r"[a-z](?:[a-z0-9-]*[a-z0-9])?-[a-z0-9]{5}"
_BODY = re.compile(rf"({_MEMBER})\.(\d+)\.(?:qcow2|seed\.iso|console\.log(?:\.\d+)?)")
_LOCAL = re.compile(rf"local\.({_MEMBER})\.(\d+)\.raw")
_DRIVE = re.compile(r"drive\.([a-z0-9-]+)\.([a-z0-9-]+)\.(\d+)\.raw")
_IMAGE = re.compile(r"image-([0-9a-f]{64})\.qcow2(\.verified)?")


@dataclass(frozen=True)
class BodyVolume:
    """Overlay, seed or console log of one incarnation."""

    member: str
    incarnation: int


@dataclass(frozen=True)
class LocalVolume:
    """Local storage that a member has had since that incarnation."""

    member: str
    since: int


@dataclass(frozen=True)
class DriveVolume:
    set_name: str
    name: str
    slot: int


@dataclass(frozen=True)
class ImageVolume:
    """A base disk, or the mark that its upload was complete."""

    digest: str
    is_mark: bool


@dataclass(frozen=True)
class ProbeVolume:
    """The disk of the guest by which KVM is tried."""


VolumeName = BodyVolume | LocalVolume | DriveVolume | ImageVolume | ProbeVolume


def parse_volume(prefix: str, name: str) -> VolumeName | None:
    """None: no name that this installation gives."""
    if not name.startswith(f"{prefix}-"):
        return None
    rest = name.removeprefix(f"{prefix}-")
    if found := _IMAGE.fullmatch(rest):
        return ImageVolume(found[1], is_mark=found[2] is not None)
    if found := _BODY.fullmatch(rest):
        return BodyVolume(found[1], int(found[2]))
    if found := _LOCAL.fullmatch(rest):
        return LocalVolume(found[1], int(found[2]))
    if found := _DRIVE.fullmatch(rest):
        return DriveVolume(found[1], found[2], int(found[3]))
    return ProbeVolume() if rest == "probe.img" else None
