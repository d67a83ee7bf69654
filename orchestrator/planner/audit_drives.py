"""Disks that outlive their machines against the records, on one host. An audit never removes a drive, nor a raw
disk that an earlier version made."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.models.audit import Fault, Finding, Kind, Remedy
from orchestrator.models.naming import drive_volume, raw_volume
from orchestrator.models.storage import Drive
from orchestrator.models.volume_names import DriveVolume, LocalVolume, parse_volume
from orchestrator.planner.audit_hosts import HostView

_RAW = "it is a raw disk, as an earlier version made them: no machine gets it"
_CONVERT = "convert it by hand, as docs/drives.md says (Raw disks); or remove the file, if nobody needs it"


def audit_drives(view: HostView) -> Iterator[Finding]:
    books = view.books
    for name in sorted(view.host.volumes):
        parsed = parse_volume(books.desired.prefix, name)
        if isinstance(parsed, DriveVolume | LocalVolume) and parsed.is_raw:
            kind = Kind.DRIVE if isinstance(parsed, DriveVolume) else Kind.VOLUME
            yield view.find(kind, Fault.WRONG, name, _RAW, fix=_CONVERT, remedy=Remedy.OPERATOR)
        elif isinstance(parsed, DriveVolume) and (parsed.set_name, parsed.name, parsed.slot) not in books.drives:
            fix = "drives are never removed by an audit: understudy adopt takes it in; or remove the file by hand"
            yield view.find(
                Kind.DRIVE, Fault.LEFT_OVER, name, "no record names it", fix=fix, remedy=Remedy.OPERATOR
            )
    for drive in books.drives.values():
        volume = drive_volume(books.desired.prefix, drive.set_name, drive.name, drive.slot)
        if drive.host == view.host.name and (trouble := _trouble_of(drive, volume, view)) is not None:
            fault, wrong, fix = trouble
            yield view.find(Kind.DRIVE, fault, volume, wrong, fix=fix, remedy=Remedy.OPERATOR)


def _trouble_of(drive: Drive, volume: str, view: HostView) -> tuple[Fault, str, str] | None:
    """What is wrong with a recorded drive, and how it is put right."""
    if drive.is_deleting:
        return Fault.WRONG, "its removal was interrupted", f"understudy delete {drive.set_name} --delete-drives"
    if drive.is_made and view.host.volumes.keys().isdisjoint({volume, raw_volume(volume)}):
        return Fault.MISSING, "its volume is gone", "bring the file back into the storage pool"
    if drive.member is not None and drive.member not in view.books.members:
        return Fault.WRONG, f"its holder {drive.member} is not recorded", "see: understudy status"
    return None
