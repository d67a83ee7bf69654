"""A file becomes an immutable image version: inspected, made one qcow2, hashed, 0444.

Each stage of the way is kept once it is finished (`stages`): the same command goes on behind it.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.scratch import scratch
from orchestrator.drivers.qemu_img import (
    ImageFacts,
    convert_image,
    find_difference,
    inspect_image,
    is_qcow2,
    read_virtual_size,
)
from orchestrator.errors import SpecError, UnderstudyError
from orchestrator.imaging.copying import copied
from orchestrator.imaging.downloading import USUAL, Download, DownloadLimits, downloaded
from orchestrator.imaging.files import OnProgress, check_sha256, explained, link_or_copy, part_of, told
from orchestrator.imaging.repository import Repository
from orchestrator.imaging.stages import Stage
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

    `sha256`: what the file as given must have (hex). Raises ImageRefused, HostFull, SpecError, Conflict,
    UnderstudyError. A refusal leaves nothing behind; interrupted, what is done is kept for the next attempt.
    """
    check_name(name)
    check_sha256(sha256)
    work = repository.paths.work
    with explained(f"adding {file}"), copied(file, sha256, work, part_of(on_progress, 0, 40)) as stage:
        return _take_in(repository, name, stage, str(file), part_of(on_progress, 40, 100))


def import_built(repository: Repository, name: str, file: Path, on_progress: OnProgress) -> Image:
    """As import_image, of a file of our own in a directory that nobody else uses; it is moved."""
    check_name(name)
    with explained(f"adding {file}"):
        stage = Stage(file.parent, "built")
        stage.finish(file, stage.disk)
        return _take_in(repository, name, stage, str(file), on_progress)


def import_download(
    repository: Repository,
    name: str,
    download: Download,
    on_progress: OnProgress,
    limits: DownloadLimits = USUAL,
) -> Image:
    """As import_image, from the web. Cut off, too, what arrived is kept for the next attempt.

    Raises DownloadFailed too. An image that `name` already has is not downloaded again.
    """
    check_name(name)
    if known := repository.find_kept(name, download.sha256):
        return _is_there(repository, known, on_progress)
    shown, work = download.address.shown, repository.paths.work
    with explained(f"adding {shown}"), downloaded(download, work, part_of(on_progress, 0, 70), limits) as stage:
        return _take_in(repository, name, stage, shown, part_of(on_progress, 70, 100))


def _take_in(repository: Repository, name: str, stage: Stage, shown: str, on_progress: OnProgress) -> Image:
    """The stage's disk is whole; it stays, under another name too, until the stage is removed."""
    # Shares as large images were measured: what is written takes longer than what is read.
    share = 45 if is_qcow2(stage.disk) else 75
    if is_qcow2(stage.disk):
        facts, file = _inspect(stage, shown, part_of(on_progress, 0, share)), stage.disk
    else:
        facts = _inspect(stage, shown, part_of(on_progress, 0, 1))
        facts, file = _convert(stage, facts.kind, shown, part_of(on_progress, 1, share)), stage.qcow2
    digest = stage.sha256_of(file, told(part_of(on_progress, share, 95), "computing the checksum"))
    if known := repository.find_kept(name, digest):
        return _is_there(repository, known, on_progress)
    on_progress(95, "taking it into the repository")
    with scratch(repository.paths.images, "import-") as beside:
        ours = beside / "image.qcow2"
        # The repository may be on a file system of its own.
        link_or_copy(file, ours, told(part_of(on_progress, 95, 99), "taking it into the repository"))
        ours.chmod(0o444)
        size, now = ours.stat().st_size, repository.store.now()
        image = repository.keep(
            ours,
            digest,
            name,
            lambda version: Image(name, version, digest, size, facts.virtual_size, now, shown),
        )
    on_progress(100, f"{image.ref} is in the repository")
    return image


def _is_there(repository: Repository, image: Image, on_progress: OnProgress) -> Image:
    repository.keep_records()
    on_progress(100, f"{image.ref} is the same image")
    return image


def _inspect(stage: Stage, shown: str, on_progress: OnProgress) -> ImageFacts:
    """Once. Raises ImageRefused."""
    if known := stage.noted(stage.disk, "facts"):
        return ImageFacts(*known)
    on_progress(0, "inspecting the image")
    facts = inspect_image(stage.disk, shown, lambda percent: on_progress(percent, "reading all of it"))
    stage.note(stage.disk, "facts", [facts.kind, facts.virtual_size])
    return facts


def _convert(stage: Stage, kind: str, shown: str, on_progress: OnProgress) -> ImageFacts:
    """The stage's qcow2 has the content of its disk; either step is done once. Raises UnderstudyError."""
    if not stage.qcow2.exists():
        on_progress(0, "converting")
        stage.converting.unlink(missing_ok=True)  # what a killed command left
        try:
            tell = part_of(on_progress, 0, 80)
            convert_image(stage.disk, kind, stage.converting, shown, lambda percent: tell(percent, "converting"))
            stage.finish(stage.converting, stage.qcow2)
        finally:
            stage.converting.unlink(missing_ok=True)
    if not stage.noted(stage.qcow2, "compared"):
        on_progress(80, "comparing with the original")
        tell = part_of(on_progress, 80, 100)
        files = stage.disk, kind, stage.qcow2
        differing = find_difference(*files, shown, lambda percent: tell(percent, "comparing with the original"))
        if differing:
            stage.qcow2.unlink()
            raise UnderstudyError(f"the converted image differs from {shown}: {differing}", "try again")
        stage.note(stage.qcow2, "compared", True)
    return ImageFacts("qcow2", read_virtual_size(stage.qcow2))
