"""Local storage and drives of one machine: which it has, and how its guest comes to use them."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config.resources import template
from orchestrator.models.members import Member, Role
from orchestrator.models.naming import LOCAL_SERIAL, drive_serial, drive_volume, local_volume
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive, ExtraDisk
from orchestrator.ports.guest import GuestShell, Patience

_LABEL_LENGTH = 16  # of ext4, in bytes


def machine_disks(prefix: str, member: Member, spec: ScaleSetSpec) -> tuple[ExtraDisk, ...]:
    """Local storage first, then the drives that the member holds and the set declares, by name."""
    disks = []
    if spec.local_storage is not None:
        volume = local_volume(prefix, member.name, member.storage_since)
        disks.append(ExtraDisk(volume, LOCAL_SERIAL, 0, spec.local_storage.size))
    positions = {name: number for number, name in enumerate(sorted(one.name for one in spec.drives), start=1)}
    for drive in sorted(member.drives, key=lambda one: one.name):
        if drive.name not in positions or member.role is not Role.INSTANCE:
            continue
        disks.append(drive_disk(prefix, drive, positions[drive.name]))
    return tuple(disks)


def drive_disk(prefix: str, drive: Drive, position: int = 1) -> ExtraDisk:
    return ExtraDisk(
        volume=drive_volume(prefix, drive.set_name, drive.name, drive.slot),
        serial=drive_serial(drive.name),
        position=position,
        size=drive.size,
        is_drive=True,
        must_exist=drive.is_made,
        origin=drive.origin,
    )


def mount_disks(shell: GuestShell, disks: Sequence[ExtraDisk], spec: ScaleSetSpec, patience: Patience) -> None:
    """They are formatted if they hold nothing yet, mounted, and mounted again at every boot. Idempotent."""
    arguments = mount_arguments(disks, spec)
    if arguments:
        shell.run_script(template("disks.sh"), arguments, patience)


def mount_arguments(disks: Sequence[ExtraDisk], spec: ScaleSetSpec) -> list[str]:
    """Serial, label and directory of each disk, an outer directory before what is inside it."""
    local = spec.local_storage
    places = {drive_serial(one.name): (one.name[:_LABEL_LENGTH], one.mount) for one in spec.drives}
    if local is not None:
        places[LOCAL_SERIAL] = ("local", local.mount)
    found = [(disk.serial, *places[disk.serial]) for disk in disks]
    rows = sorted((mount, serial, label) for serial, label, mount in found if mount is not None)
    return [word for mount, serial, label in rows for word in (serial, label, mount)]
