"""Which further disks a Windows guest can use: one, which the answer file brings up and gives a letter.

Only files are held to this. What is recorded may be of a version that refused nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.models.spec import ScaleSetSpec

Where = tuple[str | int, ...]

_NO_DRIVES = (
    "drives: not with 'answer_file: unattend': a drive comes with a claim, long after the answer file was read, "
    "and Windows takes one that holds a file system without a partition table for empty; "
    "use 'local_storage', or a store outside of the set"
)
_NO_MOUNT = (
    "local_storage.mount: Windows gives letters, not directories: leave 'mount' out and set "
    "'setup.windows.local_storage_letter'"
)
_NO_LETTER = (
    "local_storage: needs 'setup.windows.local_storage_letter' (D to Z): without it Windows neither brings the "
    "disk online nor formats it"
)


def find_useless_windows_disks(spec: ScaleSetSpec) -> Iterator[tuple[Where, str]]:
    """(where, complaint) of each disk that the set's guests could not use as declared."""
    windows, local = spec.setup.windows, spec.local_storage
    if windows is None:
        return
    letter = windows.local_storage_letter
    if letter and local is None:
        where = ("setup", "windows", "local_storage_letter")
        yield where, f"{'.'.join(where)}: there is no 'local_storage' to take the letter {letter}"
    if local is not None and local.mount is not None:
        yield ("local_storage", "mount"), _NO_MOUNT
    if local is not None and not letter:
        yield ("local_storage",), _NO_LETTER
    if spec.drives:
        yield ("drives",), _NO_DRIVES
