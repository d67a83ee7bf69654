"""`backup` and `restore`: one archive with all that cannot be made anew from what is on the hosts.

In it: the store, config.toml, the installation's name, its keys and secret, uploads and passwords that were
applied, the copies of declarations and image descriptions. Not in it: image files and volumes (the disks are too
large, and named by digest), HAProxy's files (written anew), scratch space.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from orchestrator import __version__
from orchestrator.config.paths import StatePaths
from orchestrator.config.scratch import scratch
from orchestrator.config.settings import load_settings
from orchestrator.errors import Conflict, SpecError, StoreError
from orchestrator.imaging.files import check_room
from orchestrator.store import Store
from orchestrator.store.copying import check_copy, copy_store, put_back

FORMAT = 1
_MANIFEST, _STORE = "manifest.json", "store.sqlite"
_MAX_MANIFEST = 16 * 2**20
_MAX_EXTENSION = 64 * 1024  # bytes of a header that says more of the entry behind it
_SPARE_ROOM = 64 * 2**20  # bytes that unpacking leaves free
_ROOMS = "keys|uploads|secrets|declarations|image-records"
_NAME = re.compile(rf"config\.toml|private/installation|private/(?:{_ROOMS})/[A-Za-z0-9_][A-Za-z0-9._@-]*")
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Backup:
    """What an archive says of itself. `made_at` is seconds since the epoch; `files`: name -> sha256.

    `sizes`: name -> bytes; empty in an archive that was written before they were.
    """

    installation: str
    made_at: float
    schema: int
    files: dict[str, str]
    sizes: dict[str, int]

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")


# ---- backup --------------------------------------------------------------------------------------------------


def write_backup(store: Store, paths: StatePaths, target: Path, force: bool = False) -> Backup:
    """A verified archive at `target`, 0600. Raises Conflict if there is a file already, StoreError, SpecError."""
    if store.database.file != paths.database:
        raise Conflict(
            "the store is not in the state directory", "back it up with its own tools, and the directory too"
        )
    if target.exists() and not force:
        raise Conflict(f"{target} exists already", "give another name, or --force to replace it")
    with _refused_as(f"cannot write {target}"), scratch(paths.work, "backup-") as room:
        copy = room / _STORE
        copy_store(store, copy)
        # After the store: what it names is there, or was given up meanwhile.
        files = {_STORE: copy, **_copied(paths, room)}
        manifest = {
            "format": FORMAT,
            "understudy": __version__,
            "installation": store.installation(),
            "made_at": store.now(),
            "schema": check_copy(copy),
            "files": {name: _sha256(file) for name, file in files.items()},
            "sizes": {name: file.stat().st_size for name, file in files.items()},
        }
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            _write_archive(partial, manifest, files)
            with opened_backup(partial, paths.work) as (backup, _):
                _publish(partial, target, force)
                return backup
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _refused_as(what: str) -> Iterator[None]:
    """Raises SpecError in place of OSError, naming the file unless `what` does."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
        fix = "choose a place that you may write and that has room; see the state directory, too"
        raise SpecError(f"{what}: {error.strerror}{where}", fix) from error


def _files(paths: StatePaths) -> dict[str, Path]:
    """Name in the archive -> file; of plain files of ours only."""
    found = [paths.settings, paths.identity, *(file for room in paths.private_rooms for file in room.iterdir())]
    named = {str(file.relative_to(paths.root)): file for file in sorted(found) if file.is_file()}
    return {name: file for name, file in named.items() if _NAME.fullmatch(name)}


def _copied(paths: StatePaths, room: Path) -> dict[str, Path]:
    """Name -> a copy that nobody writes to. What is gone by now is needed no more."""
    copies = {}
    for number, (name, file) in enumerate(_files(paths).items()):
        with contextlib.suppress(FileNotFoundError):
            copies[name] = Path(shutil.copyfile(file, room / str(number)))
    return copies


def _write_archive(file: Path, manifest: dict[str, Any], files: dict[str, Path]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        with tarfile.open(fileobj=handle, mode="w") as archive:
            _add(archive, _MANIFEST, json.dumps(manifest, indent=2).encode())
            for name, source in files.items():
                _add(archive, name, source)
        handle.flush()
        os.fsync(handle.fileno())


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o600
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        return
    with content.open("rb") as handle:
        entry.size = os.fstat(handle.fileno()).st_size
        archive.addfile(entry, handle)


def _publish(partial: Path, target: Path, force: bool) -> None:
    if force:
        partial.replace(target)
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise Conflict(f"{target} exists already", "give another name, or --force to replace it") from None


# ---- reading one ---------------------------------------------------------------------------------------------


class _Entry(tarfile.TarInfo):
    """A plain file. Anything else is refused by its header, before what is in it is read: it may say any size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        is_extension = entry.type == tarfile.XHDTYPE and entry.size <= _MAX_EXTENSION
        if entry.type != tarfile.REGTYPE and not is_extension:
            raise SpecError(f"the backup has {entry.name!r} in it, which is no plain file", "use another backup")
        return entry


@contextlib.contextmanager
def opened_backup(file: Path, work: Path) -> Iterator[tuple[Backup, Path]]:
    """(what it says, a directory with its files), all of it checked. Raises SpecError, StoreError, HostFull."""
    with scratch(work, "restore-") as root:
        try:
            with tarfile.open(file, mode="r:", tarinfo=_Entry) as archive:
                backup = _read_manifest(archive, file)
                needed = sum(backup.sizes.values()) if backup.sizes else file.stat().st_size
                check_room(root, needed + _SPARE_ROOM, f"unpacking backup {file}")
                for entry in archive:
                    _unpack(entry, archive, backup, root)
        except (OSError, tarfile.TarError, EOFError) as error:
            raise SpecError(f"cannot read backup {file}: {error}", "use another backup") from error
        missing = [name for name in backup.files if not (root / name).is_file()]
        if missing:
            raise SpecError(f"backup {file} is not whole: {missing[0]} is missing", "use another backup")
        check_copy(root / _STORE)
        yield backup, root


def _read_manifest(archive: tarfile.TarFile, file: Path) -> Backup:
    entry = archive.next()
    handle = archive.extractfile(entry) if entry is not None and entry.isreg() else None
    if entry is None or handle is None or entry.name != _MANIFEST or entry.size > _MAX_MANIFEST:
        raise SpecError(f"{file} is no backup of Understudy's", "backups are made by: understudy backup FILE")
    try:
        words = json.loads(handle.read())
        if words["format"] != FORMAT:
            raise SpecError(
                f"backup {file} has format {words['format']}, this Understudy knows {FORMAT}",
                "run the version of Understudy that wrote it, or a newer one",
            )
        sizes = {str(name): int(size) for name, size in dict(words.get("sizes", {})).items()}
        if sizes and (sizes.keys() != words["files"].keys() or min(sizes.values()) < 0):
            raise ValueError("not every file has its size")
        return Backup(
            str(words["installation"]), float(words["made_at"]), int(words["schema"]), dict(words["files"]), sizes
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise SpecError(f"backup {file} does not say what is in it: {error}", "use another backup") from error


def _unpack(entry: tarfile.TarInfo, archive: tarfile.TarFile, backup: Backup, root: Path) -> None:
    """Only plain files that the manifest names, at places where such a file may be."""
    if entry.name == _MANIFEST:
        return
    known = backup.files.get(entry.name)
    handle = archive.extractfile(entry) if entry.isreg() and not entry.issparse() else None
    if handle is None or known is None or not (entry.name == _STORE or _NAME.fullmatch(entry.name)):
        raise SpecError(f"the backup has {entry.name!r} in it, which is no file of a backup", "use another backup")
    if entry.size != backup.sizes.get(entry.name, entry.size):
        raise SpecError(f"the backup is damaged: {entry.name} has not the size that it had", "use another backup")
    target = root / entry.name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as copy, handle:
        digest = _copy(handle, copy)
    if digest != known:
        raise SpecError(f"the backup is damaged: {entry.name} is not what was written", "use another backup")


def _copy(source: Any, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# ---- restore -------------------------------------------------------------------------------------------------


def restore_backup(paths: StatePaths, file: Path, now: float) -> Backup:
    """The store becomes that of the backup, held until `adopt`; every other file is put back where it is missing.

    What is there besides the store is not older than the backup, and stays. Raises Conflict if the directory is
    another installation's, SpecError, StoreError; then nothing was changed.
    """
    with _refused_as(f"cannot restore {file}"), opened_backup(file, paths.work) as (backup, root):
        _refuse_others(paths, backup)
        _refuse_settings(paths, root)
        for name in backup.files:
            target = paths.root / name
            if name != _STORE and not target.exists():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (root / name).rename(target)
        aside = datetime.fromtimestamp(now, UTC).strftime("replaced-%Y%m%d-%H%M%S")
        # The store last: without it the directory is one whose store was lost, and nothing is done in it.
        put_back(root / _STORE, paths.database, f"the store is the copy of {backup.day}", aside)
        return backup


def _refuse_settings(paths: StatePaths, root: Path) -> None:
    """Settings that would be put in place and that nothing could be done with."""
    made = StatePaths(root).settings
    if made.exists() and not paths.settings.exists():
        try:
            load_settings(made)
        except SpecError as error:
            words = error.message.replace(str(made), f"the {made.name} in the backup")
            raise SpecError(words, f"put one of your own at {paths.settings}: then that is used") from error


def _refuse_others(paths: StatePaths, backup: Backup) -> None:
    try:
        here = paths.identity.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {paths.identity}: {error}") from error
    if here != backup.installation:
        raise Conflict(
            f"the backup is of installation {backup.installation}, {paths.root} is that of {here}",
            "restore it into another state directory: --state-dir DIR",
        )
