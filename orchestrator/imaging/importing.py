"""A file becomes an immutable image version: inspected, made one qcow2, hashed, 0444."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from orchestrator.config.paths import StatePaths
from orchestrator.config.rooms import hold_rooms
from orchestrator.config.scratch import scratch
from orchestrator.drivers.qemu_img import compare_images, convert_image, inspect_image
from orchestrator.errors import Conflict, ImageRefused, SpecError
from orchestrator.imaging.downloading import USUAL, Download, DownloadLimits, downloaded
from orchestrator.imaging.files import (
    OnProgress,
    check_content,
    check_room,
    check_sha256,
    copy_file,
    explained,
    is_full,
    move_file,
    sha256_of,
)
from orchestrator.models.members import Image
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.store import Store


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

    `sha256`: what the file as given must have (hex). Raises ImageRefused, HostFull, SpecError, UnderstudyError.
    Nothing is left behind on failure or Ctrl-C.
    """
    check_name(name)
    check_sha256(sha256)
    with explained(f"adding {file}"), scratch(paths.work, "import-") as room:
        on_progress(0, f"copying {file.name}")
        source = _private_copy(file, room)
        if sha256:
            check_content(source, sha256, str(file), "copy it again")
        return _take_in(store, paths, name, source, str(file), on_progress)


def import_download(
    store: Store,
    paths: StatePaths,
    name: str,
    download: Download,
    on_progress: OnProgress,
    limits: DownloadLimits = USUAL,
) -> Image:
    """As import_image, from the web. Interrupted or cut off, what arrived is kept for the next attempt.

    Raises DownloadFailed and Conflict too. An image that `name` already has is not downloaded again.
    """
    check_name(name)
    if known := _find_kept(store, paths, name, download.sha256):
        on_progress(100, f"{known.ref} is the same image")
        return known
    shown = download.address.shown
    with (
        explained(f"adding {shown}"),
        downloaded(download, paths.work, lambda part, words: on_progress(part * 0.8, words), limits) as file,
    ):
        return _take_in(store, paths, name, file, shown, lambda part, words: on_progress(80 + part * 0.2, words))


def _take_in(
    store: Store, paths: StatePaths, name: str, source: Path, shown: str, on_progress: OnProgress
) -> Image:
    """`source` is ours alone; a qcow2 is moved into the repository."""
    with scratch(paths.work, "import-") as room:
        on_progress(2, "inspecting the image")
        facts = inspect_image(source, shown)
        target, made = source, facts
        if facts.kind != "qcow2":
            target = room / "image.qcow2"
            convert_image(source, facts.kind, target, lambda part: on_progress(5 + part * 0.7, "converting"))
            on_progress(76, "comparing with the original")
            compare_images(source, facts.kind, target)
            made = inspect_image(target)
        on_progress(85, "computing the checksum")
        digest = sha256_of(target)
        if known := _find_kept(store, paths, name, digest):
            on_progress(100, f"{known.ref} is the same image")
            return known
        target.chmod(0o444)
        size = target.stat().st_size
        with scratch(paths.images, "import-") as beside:
            # The repository may be on a file system of its own.
            move_file(target, beside / target.name)
            with hold_rooms(paths):  # an audit takes the file for left over until it is recorded
                (beside / target.name).replace(paths.images / f"{digest}.qcow2")
                image = _find_version(store, name, digest) or store.add_image(
                    name,
                    lambda version: Image(name, version, digest, size, made.virtual_size, store.now(), shown),
                )
        on_progress(100, f"{image.ref} is in the repository")
        return image


def _find_version(store: Store, name: str, digest: str) -> Image | None:
    versions = store.list_images()
    return next((image for image in versions if image.name == name and image.digest == digest), None)


def _find_kept(store: Store, paths: StatePaths, name: str, digest: str) -> Image | None:
    """None also if its file is gone: then it is put back."""
    return _find_version(store, name, digest) if (paths.images / f"{digest}.qcow2").exists() else None


def remove_image(store: Store, paths: StatePaths, image: Image, on_hosts: Callable[[str], None]) -> None:
    """Raises Conflict while somebody uses it. The file goes when no other version has the same content."""
    store.remove_image(image)
    if _is_needed(store, image.digest):
        return
    on_hosts(image.digest)
    with explained(f"removing {image.ref}"), hold_rooms(paths):  # it may have been added again meanwhile
        if not _is_needed(store, image.digest):
            (paths.images / f"{image.digest}.qcow2").unlink(missing_ok=True)


def _is_needed(store: Store, digest: str) -> bool:
    return any(image.digest == digest for image in store.list_images())


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


def _private_copy(file: Path, room: Path) -> Path:
    """Inspected and imported is one and the same file, whatever happens to the original meanwhile."""
    try:
        if not file.is_file():
            raise ImageRefused(f"{file} is not a file" if file.exists() else f"there is no file {file}")
        check_room(room, file.stat().st_size * 2, f"importing {file}")
        copy = room / "source"
        copy_file(file, copy)
        return copy
    except OSError as error:
        if is_full(error):
            raise
        raise ImageRefused(f"cannot read image {file}: {error.strerror}") from error
