"""Wishes about local storage and drives: none gets smaller, and drives go only when the operator says so."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.errors import Conflict, HostError, SpecError
from orchestrator.models.members import ScaleSet
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive
from orchestrator.store import Store
from orchestrator.store import drives as records
from orchestrator.store.store import Snapshot

MIB = 2**20


def refuse_smaller_storage(known: Snapshot, spec: ScaleSetSpec, current: ScaleSet | None) -> None:
    """Raises SpecError: what a guest has written to may lie in the part that would be cut off."""
    had = current.spec.local_storage if current is not None else None
    if had is not None and spec.local_storage is not None and spec.local_storage.size < had.size:
        raise SpecError(
            f"set {spec.name!r}: local_storage of {spec.local_storage.size // MIB} MiB is smaller than the "
            f"{had.size // MIB} MiB it has",
            "local storage can only grow; to begin anew, delete the set and declare it again",
        )
    for wanted in spec.drives:
        sizes = [one.size for one in known.drives if (one.set_name, one.name) == (spec.name, wanted.name)]
        if wanted.size < max(sizes, default=0):
            raise SpecError(
                f"set {spec.name!r}: drive {wanted.name!r} of {wanted.size // MIB} MiB is smaller than the "
                f"{max(sizes) // MIB} MiB that one has",
                f"drives can only grow; to begin anew, choose another name, or: understudy delete {spec.name} "
                "--delete-drives",
            )


def refuse_storage_of_linux(spec: ScaleSetSpec, current: ScaleSet | None) -> None:
    """Raises SpecError where local storage of Linux guests would come to Windows: it takes a file system without a
    partition table for an empty disk, and formats it."""
    # Also where none is declared now: what members had before comes back with the declaration.
    was_linux = current is not None and current.spec.setup.answer_file == "cloud-init"
    if was_linux and spec.local_storage is not None and spec.setup.answer_file == "unattend":
        raise SpecError(
            f"set {spec.name!r}: its machines may have local storage that Linux formatted, and "
            "Windows would format it again",
            f"to begin anew: understudy delete {spec.name}, then apply again",
        )


def drives_of(store: Store, set_name: str) -> list[Drive]:
    return [one for one in store.snapshot().drives if one.set_name == set_name]


def is_only_drives(store: Store, set_name: str) -> bool:
    """The set is gone, drives of it are left."""
    known = store.snapshot()
    return all(one.name != set_name for one in known.sets) and any(
        one.set_name == set_name for one in known.drives
    )


def left_drives(store: Store) -> list[str]:
    """One line for each deleted set that has left drives."""
    known = store.snapshot()
    declared = {one.name for one in known.sets}
    left = sorted({one.set_name for one in known.drives} - declared)
    return [left_words(name, [one for one in known.drives if one.set_name == name]) for name in left]


def left_words(set_name: str, drives: Sequence[Drive]) -> str:
    """What remains of a deleted set, and how it is removed."""
    total = sum(one.size for one in drives) // MIB
    count = f"{len(drives)} drives" if len(drives) > 1 else "1 drive"
    return (
        f"{set_name}: {count} ({total} MiB) kept for a set of that name; "
        f"to remove what is on them: understudy delete {set_name} --delete-drives"
    )


def give_up(store: Store, set_name: str, hosts: Collection[str]) -> list[Drive]:
    """All drives of a deleted set, marked so that nobody takes them any more; their volumes may be removed now.

    Raises Conflict if an instance holds one, HostError if one is on a host that is not configured.
    """
    found = drives_of(store, set_name)
    for drive in found:
        if drive.member is not None:
            raise Conflict(
                f"drive {drive.title} of {set_name!r} is held by {drive.member}", "delete the set first"
            )
        if drive.host not in hosts:
            raise HostError(
                f"drive {drive.title} of {set_name!r} is on host {drive.host!r}, which is not configured any more",
                "add it to config.toml again",
            )
    for drive in found:
        if not records.give_up(store.database, drive):
            raise Conflict(
                f"an instance has just taken drive {drive.title} of {set_name!r}", "delete the set first"
            )
    return found


def forget(store: Store, drive: Drive) -> None:
    """Its volume is gone."""
    records.forget(store.database, drive)
