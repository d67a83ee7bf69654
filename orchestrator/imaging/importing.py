"""A file becomes an immutable image version: inspected, made one qcow2, hashed, 0444."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.config.paths import StatePaths
from orchestrator.drivers.qemu_img import convert_image, inspect_image
from orchestrator.errors import HostFull, ImageRefused, SpecError
from orchestrator.models.members import Image
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.store import Store

OnProgress = Callable[[float, str], None]
"""Percent, what is being done."""


def check_name(name: str) -> None:
    """Raises SpecError if `name` cannot be an image's name."""
    try:
        ScaleSetSpec(name="x", image=name)
    except ValueError:
        name_ok = False
    else:
        name_ok = ":" not in name
    if not name_ok:
        raise SpecError(f"{name!r} cannot be an image's name", "use letters a-z, digits, '.', '_' and '-'")


def import_image(store: Store, paths: StatePaths, name: str, file: Path, on_progress: OnProgress) -> Image:
    """Add `file` as the next version of `name`; the same content again is the version it already is.

    Raises ImageRefused, HostFull, SpecError. Nothing is left behind on failure or Ctrl-C.
    """
    check_name(name)
    with _scratch(paths.work) as scratch:
        on_progress(0, f"inspecting {file.name}")
        source = _private_copy(file, scratch)
        facts = inspect_image(source, str(file))
        target, made = source, facts
        if facts.kind != "qcow2":
            target = scratch / "image.qcow2"
            convert_image(source, facts.kind, target, lambda part: on_progress(5 + part * 0.8, "converting"))
            made = inspect_image(target)
        on_progress(85, "computing the checksum")
        with target.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        for known in store.list_images():
            if known.name == name and known.digest == digest:
                on_progress(100, f"{known.ref} is the same image")
                return known
        stored = paths.images / f"{digest}.qcow2"
        target.chmod(0o444)
        target.replace(stored)
        size = stored.stat().st_size
        image = store.add_image(
            name,
            lambda version: Image(name, version, digest, size, made.virtual_size, store.now(), str(file)),
        )
        on_progress(100, f"{image.ref} is in the repository")
        return image


def remove_image(store: Store, paths: StatePaths, image: Image, on_hosts: Callable[[str], None]) -> None:
    """Raises Conflict while somebody uses it. The file goes when no other version has the same content."""
    store.remove_image(image)
    if not any(other.digest == image.digest for other in store.list_images()):
        on_hosts(image.digest)
        (paths.images / f"{image.digest}.qcow2").unlink(missing_ok=True)


def _private_copy(file: Path, scratch: Path) -> Path:
    """Inspected and imported is one and the same file, whatever happens to the original meanwhile."""
    try:
        if not file.is_file():
            raise ImageRefused(f"{file} is not a file" if file.exists() else f"there is no file {file}")
        needed, free = file.stat().st_size, shutil.disk_usage(scratch).free
        if needed * 2 > free:
            raise HostFull(
                f"importing {file} needs {needed * 2 // 2**20} MiB, {scratch} has {free // 2**20} MiB free",
                "free space, or give another --state-dir",
            )
        copy = scratch / "source"
        shutil.copyfile(file, copy)
        return copy
    except OSError as error:
        raise ImageRefused(f"cannot read image {file}: {error.strerror}") from error


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="import-", dir=parent) as directory:
        yield Path(directory)
