"""What the name of a volume says: the other direction of `models.naming`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MEMBER = r"[a-z](?:[a-z0-9-]*[a-z0-9])?-[a-z0-9]{5}"
_NUMBER = r"(0|[1-9][0-9]*)"  # as it is written: no other name means the same
_BODY = re.compile(rf"({_MEMBER})\.{_NUMBER}\.(?:(?:top\.)?qcow2|seed\.iso|console\.log(?:\.[0-9]+)?|(mem))")
_FORMAT = r"(?:qcow2|(raw))"
_LOCAL = re.compile(rf"local\.({_MEMBER})\.{_NUMBER}\.{_FORMAT}")
_DRIVE = re.compile(rf"drive\.([a-z0-9-]+)\.([a-z0-9-]+)\.{_NUMBER}\.{_FORMAT}")
_IMAGE = re.compile(r"image-([0-9a-f]{64})\.qcow2(\.verified)?")
_GOLDEN = re.compile(r"golden-([0-9a-f]{16})\.([1-9][0-9]*)\.(qcow2|mem|json)")


@dataclass(frozen=True)
class BodyVolume:
    """Overlay, seed or console log (which is no volume) of one incarnation; or, with `is_memory`, what it goes on
    from as a fork."""

    member: str
    incarnation: int
    is_memory: bool = False


@dataclass(frozen=True)
class LocalVolume:
    """Local storage that a member has had since that incarnation. `is_raw`: as it was made before it was qcow2."""

    member: str
    since: int
    is_raw: bool = False


@dataclass(frozen=True)
class DriveVolume:
    """`is_raw`: as it was made before drives were qcow2."""

    set_name: str
    name: str
    slot: int
    is_raw: bool = False


@dataclass(frozen=True)
class ImageVolume:
    """A base disk, or the mark that its upload was complete."""

    digest: str
    is_mark: bool


@dataclass(frozen=True)
class GoldenVolume:
    """Part of a model's golden image. `kind`: qcow2 is its frozen overlay, mem its memory, json says that it is
    complete."""

    model: str
    serial: int
    kind: str


@dataclass(frozen=True)
class ProbeVolume:
    """The disk of the guest by which KVM is tried."""


VolumeName = BodyVolume | LocalVolume | DriveVolume | ImageVolume | GoldenVolume | ProbeVolume


def parse_volume(prefix: str, name: str) -> VolumeName | None:
    """None: no name that this installation gives."""
    if not name.startswith(f"{prefix}-"):
        return None
    rest = name.removeprefix(f"{prefix}-")
    if found := _IMAGE.fullmatch(rest):
        return ImageVolume(found[1], is_mark=found[2] is not None)
    if found := _BODY.fullmatch(rest):
        return BodyVolume(found[1], int(found[2]), is_memory=found[3] is not None)
    if found := _GOLDEN.fullmatch(rest):
        return GoldenVolume(found[1], int(found[2]), found[3])
    if found := _LOCAL.fullmatch(rest):
        return LocalVolume(found[1], int(found[2]), is_raw=found[3] is not None)
    if found := _DRIVE.fullmatch(rest):
        return DriveVolume(found[1], found[2], int(found[3]), is_raw=found[4] is not None)
    return ProbeVolume() if rest == "probe.img" else None
