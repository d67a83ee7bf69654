"""Disks that outlive an overlay: local storage, which survives a new body, and drives, which survive the machine.

Sizes are bytes. As declared (`...Spec`), as recorded (`Drive`) and as a machine gets them (`ExtraDisk`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from orchestrator.models.units import Size

MAX_DRIVES = 8
MIN_SIZE = 16 * 2**20

# Over these nothing may be mounted: a guest without them is none, or cannot be reached.
_SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "usr")
_KERNEL = ("dev", "proc", "sys")


def _mount_point(path: str) -> str:
    parts = path.split("/")[1:]
    if not {".", ".."}.isdisjoint(parts):
        raise ValueError(f"{path!r} must be written without '.' and '..'")
    if (len(parts) == 1 and parts[0] in _SYSTEM) or parts[0] in _KERNEL:
        raise ValueError(f"{path!r} belongs to the guest's own system; choose a directory such as /mnt/data")
    return path


MountPoint = Annotated[
    str, StringConstraints(pattern=r"^(/[A-Za-z0-9._+@-]+)+$", max_length=200), AfterValidator(_mount_point)
]
DiskSize = Annotated[Size, Field(ge=MIN_SIZE)]
DriveName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]


class LocalStorageSpec(BaseModel):
    """The second disk of every machine of a set. `mount` is a directory of the guest; Windows gives letters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: DiskSize
    mount: MountPoint | None = None


class DriveSpec(BaseModel):
    """A durable disk that every instance of a set has one of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: DriveName
    size: DiskSize
    mount: MountPoint | None = None


def refuse_bad_storage(local: LocalStorageSpec | None, drives: Sequence[DriveSpec], answer_file: str) -> None:
    """Raises ValueError if they cannot be in one machine that is set up from such an answer file."""
    disks: list[tuple[str, LocalStorageSpec | DriveSpec]] = [(f"drive {one.name!r}", one) for one in drives]
    if local is not None:
        disks.insert(0, ("local_storage", local))
    if disks and answer_file == "none":
        raise ValueError("'local_storage' and 'drives' need an answer file: nobody would mount them")
    names = [one.name for one in drives]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two drives are named {double!r}")
    mounts: dict[str, str] = {}
    for title, disk in disks:
        if disk.mount is None and answer_file == "cloud-init":
            raise ValueError(f"{title} needs a 'mount', the directory of the guest it is to be mounted on")
        if disk.mount is not None and mounts.setdefault(disk.mount, title) != title:
            raise ValueError(f"{mounts[disk.mount]} and {title} are both mounted on {disk.mount}")
    for mount, title in mounts.items():
        # Drives come to a machine that has its local storage already: they would hide it.
        if local is not None and local.mount is not None and local.mount.startswith(f"{mount}/"):
            raise ValueError(f"local_storage cannot be mounted within {title} ({mount})")


def storage_shape(local: LocalStorageSpec | None, drives: Sequence[DriveSpec]) -> dict[str, Any]:
    """What of them shapes a machine: all of local storage, of drives not the size. Empty without any."""
    shape: dict[str, Any] = {}
    if local is not None:
        shape["local_storage"] = local.model_dump(mode="json")
    if drives:
        shape["drives"] = sorted((one.name, one.mount or "") for one in drives)
    return shape


@dataclass(frozen=True)
class Drive:
    """A durable disk as recorded. `member` holds it, None while it is free; `is_made`: a machine has had it, so
    that its volume must be there; `is_deleting`: the operator gave it up. `failures`: those of a holder that is
    replaced for them, for the next one to go on counting."""

    set_name: str
    name: str
    slot: int
    host: str
    size: int
    member: str | None
    created_at: float
    is_made: bool = False
    is_deleting: bool = False
    failures: int = 0

    @property
    def title(self) -> str:
        return f"{self.name}-{self.slot}"

    @property
    def origin(self) -> str:
        """The same as long as it is recorded, and another for every new record."""
        return f"{self.set_name}.{self.name}.{self.slot}@{self.created_at!r}"


@dataclass(frozen=True)
class ExtraDisk:
    """A disk that outlives its machine: a volume of at least `size` bytes. `position` gives its name on the bus,
    the same in every body; `must_exist`: an empty one in its place would hide a loss. `origin` is written into the
    file of a drive, and tells it from one that was made for another record."""

    volume: str
    serial: str
    position: int
    size: int
    is_drive: bool = False
    must_exist: bool = False
    origin: str = ""
