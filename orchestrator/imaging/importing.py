"""A file becomes an immutable image version: inspected, made one qcow2, hashed, 0444."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.config.paths import StatePaths
from orchestrator.drivers.qemu_img import compare_images, convert_image, inspect_image
from orchestrator.errors import Conflict, HostFull, ImageRefused, SpecError
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


def import_image(
    store: Store, paths: StatePaths, name: str, file: Path, on_progress: OnProgress, sha256: str = ""
) -> Image:
    """Add `file` as the next version of `name`; the same content again is the version it already is.

    `sha256`: what the file as given must have (hex). Raises ImageRefused, HostFull, SpecError. Nothing is left
    behind on failure or Ctrl-C.
    """
    check_name(name)
    check_sha256(sha256)
    with _scratch(paths.work) as scratch:
        on_progress(0, f"inspecting {file.name}")
        source = _private_copy(file, scratch)
        if sha256:
            _check_content(source, sha256, file)
        facts = inspect_image(source, str(file))
        target, made = source, facts
        if facts.kind != "qcow2":
            target = scratch / "image.qcow2"
            convert_image(source, facts.kind, target, lambda part: on_progress(5 + part * 0.7, "converting"))
            on_progress(76, "comparing with the original")
            compare_images(source, facts.kind, target)
            made = inspect_image(target)
        on_progress(85, "computing the checksum")
        digest = _sha256_of(target)
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


def check_sha256(sha256: str) -> None:
    """Raises SpecError unless it is empty or 64 hex digits."""
    if sha256 and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) is None:
        raise SpecError(f"{sha256!r} is no sha256", "give the 64 hex digits that sha256sum prints")


def _check_content(source: Path, sha256: str, file: Path) -> None:
    found = _sha256_of(source)
    if found != sha256.lower():
        raise ImageRefused(
            f"{file} is not what was meant: its sha256 is {found}, not {sha256.lower()}", "copy it again"
        )


def _sha256_of(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def prune_images(store: Store, paths: StatePaths, on_hosts: Callable[[str], None]) -> list[Image]:
    """Remove every version that nobody uses, except the newest of each name; what was removed."""
    images = store.list_images()
    newest: dict[str, int] = {}
    for image in images:
        newest[image.name] = max(newest.get(image.name, 0), image.version)
    removed = []
    for image in images:
        if image.version == newest[image.name]:
            continue
        with contextlib.suppress(Conflict):
            remove_image(store, paths, image, on_hosts)
            removed.append(image)
    return removed


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
