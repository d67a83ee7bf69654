"""A file becomes an immutable image version: inspected, made one qcow2, hashed, 0444."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.scratch import scratch
from orchestrator.drivers.qemu_img import convert_image, find_difference, inspect_image
from orchestrator.errors import ImageRefused, SpecError, UnderstudyError
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
from orchestrator.imaging.repository import Repository
from orchestrator.models.members import Image
from orchestrator.models.spec import ScaleSetSpec


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
    repository: Repository, name: str, file: Path, on_progress: OnProgress, sha256: str = ""
) -> Image:
    """Add `file` as the next version of `name`; the same content again is the version it already is.

    `sha256`: what the file as given must have (hex). Raises ImageRefused, HostFull, SpecError, UnderstudyError.
    Nothing is left behind on failure or Ctrl-C.
    """
    check_name(name)
    check_sha256(sha256)
    with explained(f"adding {file}"), scratch(repository.paths.work, "import-") as room:
        on_progress(0, f"copying {file.name}")
        source = _private_copy(file, room)
        if sha256:
            check_content(source, sha256, str(file), "copy it again")
        return _take_in(repository, name, source, str(file), on_progress)


def import_download(
    repository: Repository,
    name: str,
    download: Download,
    on_progress: OnProgress,
    limits: DownloadLimits = USUAL,
) -> Image:
    """As import_image, from the web. Interrupted or cut off, what arrived is kept for the next attempt.

    Raises DownloadFailed and Conflict too. An image that `name` already has is not downloaded again.
    """
    check_name(name)
    if known := repository.find_kept(name, download.sha256):
        on_progress(100, f"{known.ref} is the same image")
        return known
    shown = download.address.shown
    with (
        explained(f"adding {shown}"),
        downloaded(
            download, repository.paths.work, lambda part, words: on_progress(part * 0.8, words), limits
        ) as file,
    ):
        return _take_in(repository, name, file, shown, lambda part, words: on_progress(80 + part * 0.2, words))


def _take_in(repository: Repository, name: str, source: Path, shown: str, on_progress: OnProgress) -> Image:
    """`source` is ours alone; a qcow2 is moved into the repository."""
    with scratch(repository.paths.work, "import-") as room:
        on_progress(2, "inspecting the image")
        facts = inspect_image(source, shown)
        target, made = source, facts
        if facts.kind != "qcow2":
            target = room / "image.qcow2"
            convert_image(source, facts.kind, target, lambda part: on_progress(5 + part * 0.7, "converting"))
            on_progress(76, "comparing with the original")
            if differing := find_difference(
                source,
                facts.kind,
                target,
                lambda part: on_progress(76 + part * 0.09, "comparing with the original"),
            ):
                raise UnderstudyError(f"the converted image differs from {source}: {differing}", "try again")
            made = inspect_image(target)
        on_progress(85, "computing the checksum")
        digest = sha256_of(target)
        if known := repository.find_kept(name, digest):
            on_progress(100, f"{known.ref} is the same image")
            return known
        target.chmod(0o444)
        size = target.stat().st_size
        store = repository.store
        with scratch(repository.paths.images, "import-") as beside:
            # The repository may be on a file system of its own.
            move_file(target, beside / target.name)
            image = repository.keep(
                beside / target.name,
                digest,
                name,
                lambda version: Image(name, version, digest, size, made.virtual_size, store.now(), shown),
            )
        on_progress(100, f"{image.ref} is in the repository")
        return image


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
