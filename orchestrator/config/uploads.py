"""Upload archives: what a step uploads is packed when it is applied, named by content, and kept.

An instance made next month by the controller gets the files that were applied, not what the folder holds then.
Names inside are relative to the guest's root: an archive is unpacked at `/`. A directory's content goes below
`to`; a file becomes `to`, or goes into it where `to` ends with a slash.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from orchestrator.config.rooms import write_kept
from orchestrator.errors import SpecError
from orchestrator.models.spec import ScaleSetSpec, UploadSource


def pack_uploads(spec: ScaleSetSpec, store: Path) -> ScaleSetSpec:
    """The spec with the digest of every upload filled in; archives are written below `store`."""
    steps = []
    for step in spec.setup.steps:
        if step.upload is not None and step.upload.digest is None:
            packed = step.upload.model_copy(update={"digest": _pack(step.upload, store)})
            step = step.model_copy(update={"upload": packed})
        steps.append(step)
    setup = spec.setup.model_copy(update={"steps": tuple(steps)})
    return spec.model_copy(update={"setup": setup})


def upload_archive(store: Path, digest: str) -> Path:
    """Where the archive of that digest is kept."""
    return store / f"{digest}.tar"


def prune_uploads(specs: Iterable[ScaleSetSpec], store: Path) -> None:
    """Remove the archives that no set needs any more, and what was left of packing one. Call it within
    `hold_rooms`."""
    needed = {upload_archive(store, digest).name for spec in specs for digest in spec.setup.upload_digests()}
    for archive in store.iterdir():
        if archive.name not in needed:
            archive.unlink(missing_ok=True)


_STRANGE = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _refuse_strange(upload: UploadSource, path: Path) -> None:
    """What a guest could make nothing of, or what has no end."""
    kind = _STRANGE.get(stat.S_IFMT(path.lstat().st_mode))
    if kind is not None:
        raise SpecError(
            f"cannot upload {upload.source}: {path} is {kind}",
            "files can be uploaded, and folders of files, folders and links",
        )


def _pack(upload: UploadSource, store: Path) -> str:
    source = Path(upload.source)
    target_path = PurePosixPath(upload.to).relative_to("/")
    buffer = io.BytesIO()
    try:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            if source.is_dir():
                for path in sorted(source.rglob("*")):
                    _refuse_strange(upload, path)
                    name = target_path / path.relative_to(source).as_posix()
                    archive.add(path, str(name), recursive=False, filter=_plain)
            else:
                _refuse_strange(upload, source)
                name = target_path / source.name if upload.to.endswith("/") else target_path
                archive.add(source, str(name), filter=_plain)
    except OSError as error:
        raise SpecError(f"cannot upload {upload.source}: {error}") from error
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    target = upload_archive(store, digest)
    if not target.exists():
        write_kept(target, content)
    return digest


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owner and times left out: the same files have the same digest. The mode stays."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = 0
    return entry
