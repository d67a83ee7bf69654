"""backup and restore on real files and real SQLite, while others write."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.config.ledger import Ledger
from orchestrator.config.paths import StatePaths
from orchestrator.errors import Conflict, HostFull, SpecError, StoreError, UnderstudyError
from orchestrator.service.backup import opened_backup, restore_backup, write_backup
from orchestrator.service.identity import ensure_identity
from orchestrator.store import Lease, Store, open_store
from orchestrator.store.tables import SCHEMA_VERSION
from tests.builders import NOW, make_image, make_spec

SECRET = b"a private key"


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    made = StatePaths(tmp_path / "state")
    made.ensure()
    (made.keys / "identity.secret").write_bytes(SECRET)
    (made.uploads / f"{'ab' * 32}.tar").write_bytes(b"what was uploaded")
    (made.declarations / ".web.json.123").write_bytes(b"half written")
    made.settings.write_text('prefix = "other"\n', encoding="utf-8")
    return made


@pytest.fixture
def store(paths: StatePaths) -> Iterator[Store]:
    made = opened(paths)
    image = made.add_image("micro", lambda version: make_image(version=version))
    made.declare_set(make_spec(), image, "0" * 16)
    yield made
    made.close()


def opened(paths: StatePaths) -> Store:
    made = open_store(f"sqlite:///{paths.database}", lambda: NOW)
    ensure_identity(made, paths.identity)
    return made


def write_pairs(store: Store, stopping: threading.Event, failures: list[BaseException]) -> None:
    """Two facts in one transaction, always the same number; and much else that makes pages move."""
    number = 0
    try:
        while not stopping.is_set():
            number += 1
            with store.database.write() as connection:
                for key in ("left", "right"):
                    connection.exec_driver_sql("DELETE FROM facts WHERE key = ?", (key,))
                    connection.exec_driver_sql("INSERT INTO facts VALUES (?, ?)", (key, str(number)))
            store.note("web", "", "written", "x" * 500)
    except BaseException as error:  # noqa: BLE001 - raised again by the test
        failures.append(error)


def test_a_backup_under_writes_is_of_one_moment_and_holds_nobody_up(store: Store, paths: StatePaths) -> None:
    stopping, failures = threading.Event(), []  # type: tuple[threading.Event, list[BaseException]]
    other = opened(paths)
    writers = [
        threading.Thread(target=write_pairs, args=(one, stopping, failures), daemon=True) for one in (store, other)
    ]
    for writer in writers:
        writer.start()
    seen = set()
    try:
        for number in range(15):
            target = paths.root.parent / f"{number}.tar"
            write_backup(store, paths, target)
            with opened_backup(target, paths.work) as (_, root):
                seen.add(pair(root / "store.sqlite"))
    finally:
        stopping.set()
        for writer in writers:
            writer.join(timeout=30)
        other.close()
    assert failures == []
    assert all(left == right for left, right in seen)
    assert len(seen) > 1, "nobody wrote meanwhile"


def pair(file: Path) -> tuple[str, str]:
    connection = sqlite3.connect(file)
    try:
        found = dict(connection.execute("SELECT key, value FROM facts WHERE key IN ('left', 'right')").fetchall())
    finally:
        connection.close()
    return found.get("left", "0"), found.get("right", "0")


def test_what_is_in_a_backup_and_who_may_read_it(store: Store, paths: StatePaths) -> None:
    target = paths.root.parent / "backup.tar"
    made = write_backup(store, paths, target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert set(made.files) == {
        "store.sqlite",
        "config.toml",
        "private/installation",
        "private/keys/identity.secret",
        f"private/uploads/{'ab' * 32}.tar",
    }
    with tarfile.open(target) as archive:
        assert {entry.mode for entry in archive} == {0o600}
    assert [one.name for one in paths.root.parent.iterdir()] == ["state", "backup.tar"] or sorted(
        one.name for one in paths.root.parent.iterdir()
    ) == ["backup.tar", "state"]
    assert list(paths.work.iterdir()) == []


def test_a_file_that_is_there_is_kept_without_force(store: Store, paths: StatePaths) -> None:
    target = paths.root.parent / "backup.tar"
    target.write_bytes(b"a diary")
    with pytest.raises(Conflict, match="exists already"):
        write_backup(store, paths, target)
    assert target.read_bytes() == b"a diary"
    write_backup(store, paths, target, force=True)
    with opened_backup(target, paths.work) as (backup, _):
        assert backup.installation == store.installation()


def test_a_backup_that_cannot_be_written_leaves_nothing(store: Store, paths: StatePaths) -> None:
    with pytest.raises(SpecError, match="cannot write"):
        write_backup(store, paths, paths.root.parent / "missing" / "backup.tar")
    assert [one.name for one in paths.root.parent.iterdir()] == ["state"]


# ---- restore -------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(store: Store, paths: StatePaths) -> Path:
    target = paths.root.parent / "backup.tar"
    Lease(store, holder="elsewhere:1:1").take()
    write_backup(store, paths, target)
    return target


def test_a_backup_comes_back_whole_into_an_empty_directory(store: Store, archive: Path, tmp_path: Path) -> None:
    new = StatePaths(tmp_path / "new")
    new.ensure()
    restore_backup(new, archive, NOW)
    again = opened(new)
    assert again.installation() == store.installation()
    assert again.snapshot().sets == store.snapshot().sets
    assert "is the copy of" in again.snapshot().hold
    assert again.find_lease_holder("controller") is None
    assert (new.keys / "identity.secret").read_bytes() == SECRET
    assert (new.keys / "identity.secret").stat().st_mode & 0o777 == 0o600
    assert new.database.stat().st_mode & 0o777 == 0o600
    assert new.settings.read_text(encoding="utf-8") == 'prefix = "other"\n'
    assert list(new.work.iterdir()) == []
    again.close()


def test_the_numbers_that_images_ever_had_come_back(store: Store, paths: StatePaths, tmp_path: Path) -> None:
    ledger = Ledger(paths.declarations, paths.image_records)
    removed = store.add_image("micro", lambda version: make_image(version=version, digest="e5" * 32))
    ledger.keep_images([removed], store.given_versions())
    store.remove_image(removed)
    ledger.forget_image(removed)
    write_backup(store, paths, tmp_path / "backup.tar")
    new = StatePaths(tmp_path / "new")
    new.ensure()
    restore_backup(new, tmp_path / "backup.tar", NOW)
    again = opened(new)
    assert again.given_versions() == {"micro": 2}
    assert Ledger(new.declarations, new.image_records).given_versions() == {"micro": 2}
    again.close()


def test_what_is_there_besides_the_store_stays_and_the_old_store_is_kept(
    store: Store, paths: StatePaths, archive: Path
) -> None:
    paths.settings.write_text('prefix = "newer"\n', encoding="utf-8")
    store.write_fact("since", 1)
    store.close()
    restore_backup(paths, archive, NOW)
    assert paths.settings.read_text(encoding="utf-8") == 'prefix = "newer"\n'
    again = opened(paths)
    assert again.read_fact("since") is None
    again.close()
    (aside,) = paths.private.glob("store.sqlite.replaced-????????-??????")
    old = open_store(f"sqlite:///{aside}", lambda: NOW)
    assert old.read_fact("since") == 1
    old.close()


def test_a_log_of_the_old_store_is_not_played_into_the_new_one(
    store: Store, paths: StatePaths, archive: Path
) -> None:
    """A controller that was killed leaves its log."""
    store.write_fact("since", 1)
    log = paths.database.with_name("store.sqlite-wal")
    content = log.read_bytes()
    assert content
    store.close()
    log.write_bytes(content)
    restore_backup(paths, archive, NOW)
    again = opened(paths)
    assert again.read_fact("since") is None
    again.close()


def test_another_installations_directory_is_refused(paths: StatePaths, archive: Path) -> None:
    before = paths.database.read_bytes()
    paths.identity.write_text("feedfeedfeedfeed\n", encoding="ascii")
    with pytest.raises(Conflict, match="that of feedfeedfeedfeed"):
        restore_backup(paths, archive, NOW)
    assert paths.database.read_bytes() == before


Edit = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def rewritten(archive: Path, edit: Edit) -> Path:
    """The archive with its entries changed."""
    with tarfile.open(archive) as source:
        entries = [(entry, source.extractfile(entry).read()) for entry in source]  # type: ignore[union-attr]
    edit(entries)
    target = archive.with_name("rewritten.tar")
    with tarfile.open(target, "w") as made:
        for entry, content in entries:
            entry.size = len(content) if entry.isreg() else 0
            made.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return target


def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Edit:
    def edit(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest = json.loads(entries[0][1])
        manifest["files"][name], manifest["sizes"][name] = "0" * 64, size
        entries[0] = (entries[0][0], json.dumps(manifest).encode())
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        entries.append((entry, b""))

    return edit


def grow(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """A file that is larger than was written, in an archive that says so."""
    (manifest, words), (entry, content) = entries[0], entries[-1]
    grown = content + b"x"
    known = json.loads(words)
    known["files"][entry.name] = hashlib.sha256(grown).hexdigest()
    entries[0], entries[-1] = (manifest, json.dumps(known).encode()), (entry, grown)


def mislay_a_size(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    known = json.loads(entries[0][1])
    known["sizes"].popitem()
    entries[0] = (entries[0][0], json.dumps(known).encode())


def say_nonsense(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[0] = (entries[0][0], b"[" * 100_000)


def damage(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entry, content = entries[-1]
    entries[-1] = (entry, bytes([content[0] ^ 1]) + content[1:])


def leave_out(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries.pop()


def be_newer(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[0] = (entries[0][0], entries[0][1].replace(b'"format": 1', b'"format": 9'))


@pytest.mark.parametrize(
    "edit",
    [
        add("private/keys/../../../evil"),
        add("/etc/evil"),
        add("private/evil"),
        add("haproxy/haproxy.cfg"),
        add("private/keys/link", tarfile.SYMTYPE, "/etc/passwd"),
        add("private/keys/hard", tarfile.LNKTYPE, "store.sqlite"),
        add("private/uploads", tarfile.DIRTYPE),
        add("private/uploads/device", tarfile.CHRTYPE),
        add("private/uploads/pipe", tarfile.FIFOTYPE),
        grow,
        mislay_a_size,
        say_nonsense,
        damage,
        leave_out,
        be_newer,
        lambda entries: entries.clear(),
        lambda entries: entries.reverse(),
    ],
)
def test_an_archive_that_is_not_as_it_was_written_is_refused_and_nothing_changes(
    edit: Edit, archive: Path, tmp_path: Path
) -> None:
    new = StatePaths(tmp_path / "new")
    new.ensure()
    before = sorted(new.root.rglob("*"))
    with pytest.raises(UnderstudyError) as error:
        restore_backup(new, rewritten(archive, edit), NOW)
    assert error.value.fix
    assert sorted(new.root.rglob("*")) == before
    assert not (tmp_path.parent / "evil").exists()


def header(name: str, kind: bytes, size: int, rest: bytes = b"") -> bytes:
    """A header of 512 bytes with `rest` at the place where GNU tar keeps what it says of holes."""
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    block = bytearray(made.tobuf(tarfile.GNU_FORMAT)[-512:])
    block[386 : 386 + len(rest)] = rest
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def with_a_hole(size: int) -> bytes:
    """GNU tar's entry of a file that has no data and says it is `size` bytes long."""
    holes = b"%011o\0%011o\0" % (size, 0) + bytes(24 * 3 + 1) + b"%011o\0" % size
    return header("private/uploads/hole.tar", tarfile.GNUTYPE_SPARSE, 0, holes)


def with_a_hole_in_pax(size: int) -> bytes:
    pairs = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(size)}
    pairs |= {"GNU.sparse.map": f"{size},0", "GNU.sparse.name": "private/uploads/hole.tar"}
    made = tarfile.TarInfo("private/uploads/hole.tar")
    made.pax_headers = pairs
    return made.tobuf(tarfile.PAX_FORMAT)


HOLE = 2**30


@pytest.mark.parametrize("entry", [with_a_hole(HOLE), with_a_hole_in_pax(HOLE)], ids=["gnu", "pax"])
def test_an_entry_that_is_mostly_a_hole_is_refused_unread(entry: bytes, archive: Path, tmp_path: Path) -> None:
    """It would become a file of any size."""
    crafted = rewritten(archive, add("private/uploads/hole.tar", size=HOLE))
    content = crafted.read_bytes().rstrip(b"\0")
    start = content.rindex(b"private/uploads/hole.tar")
    crafted.write_bytes(content[:start] + entry + bytes(1024))
    with tarfile.open(crafted) as made:
        (hole,) = (one for one in made if one.name == "private/uploads/hole.tar")
        assert (hole.issparse(), hole.size) == (True, HOLE)
    new = StatePaths(tmp_path / "new")
    new.ensure()
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(SpecError, match="which is no"):
        restore_backup(new, crafted, NOW)
    assert free - shutil.disk_usage(tmp_path).free < HOLE / 2


def test_a_header_that_announces_a_giant_name_is_refused_unread(archive: Path, tmp_path: Path) -> None:
    """tarfile would take it all into memory."""
    crafted = tmp_path / "crafted.tar"
    with crafted.open("wb") as file:
        file.write(header("././@LongLink", tarfile.GNUTYPE_LONGNAME, HOLE))
        file.truncate(HOLE + 1024)  # takes no room
    new = StatePaths(tmp_path / "new")
    new.ensure()
    with pytest.raises(SpecError, match="which is no plain file"):
        restore_backup(new, crafted, NOW)


def test_what_there_is_no_room_for_is_not_unpacked(archive: Path, tmp_path: Path) -> None:
    def be_huge(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        known = json.loads(entries[0][1])
        known["sizes"]["store.sqlite"] = 2**60
        entries[0] = (entries[0][0], json.dumps(known).encode())

    new = StatePaths(tmp_path / "new")
    new.ensure()
    with pytest.raises(HostFull, match="MiB free"):
        restore_backup(new, rewritten(archive, be_huge), NOW)
    assert list(new.work.iterdir()) == []


def test_an_archive_from_before_sizes_were_written_is_restored(archive: Path, tmp_path: Path) -> None:
    def forget(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        known = json.loads(entries[0][1])
        del known["sizes"]
        entries[0] = (entries[0][0], json.dumps(known).encode())

    new = StatePaths(tmp_path / "new")
    new.ensure()
    restore_backup(new, rewritten(archive, forget), NOW)
    assert new.database.exists()


def with_settings(text: bytes) -> Edit:
    def edit(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        known = json.loads(entries[0][1])
        known["files"]["config.toml"] = hashlib.sha256(text).hexdigest()
        known["sizes"]["config.toml"] = len(text)
        entries[0] = (entries[0][0], json.dumps(known).encode())
        place = next(number for number, (entry, _) in enumerate(entries) if entry.name == "config.toml")
        entries[place] = (entries[place][0], text)

    return edit


def test_settings_that_would_start_a_program_are_not_put_in_place(archive: Path, tmp_path: Path) -> None:
    """`restore` adopts at once, by the hosts that the restored file names."""
    crafted = rewritten(archive, with_settings(b'[[hosts]]\nuri = "qemu+ssh://h/system?command=/tmp/x"\n'))
    new = StatePaths(tmp_path / "new")
    new.ensure()
    with pytest.raises(SpecError, match=r"config.toml in the backup: hosts.0.uri: .*'command'") as refused:
        restore_backup(new, crafted, NOW)
    assert str(new.settings) in refused.value.fix
    assert not new.settings.exists()
    assert not new.database.exists()
    new.settings.write_text('prefix = "mine"\n', encoding="utf-8")
    restore_backup(new, crafted, NOW)
    assert new.settings.read_text(encoding="utf-8") == 'prefix = "mine"\n'


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 4096])
def test_a_file_that_is_no_backup_is_refused(content: bytes, paths: StatePaths, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(content)
    with pytest.raises(SpecError):
        restore_backup(paths, file, NOW)


def test_a_cut_archive_is_refused(archive: Path, paths: StatePaths) -> None:
    content = archive.read_bytes()
    end = len(content.rstrip(b"\0"))  # the rest is how tar ends
    for cut in (100, 1000, end // 2, end - 1):
        archive.write_bytes(content[:cut])
        with pytest.raises(SpecError):
            restore_backup(paths, archive, NOW)


def test_a_backup_of_a_newer_version_is_refused(store: Store, paths: StatePaths) -> None:
    with store.database.write() as connection:
        newer = str(SCHEMA_VERSION + 1)
        connection.exec_driver_sql("UPDATE facts SET value = ? WHERE key = 'schema_version'", (newer,))
    with pytest.raises(StoreError) as error:
        write_backup(store, paths, paths.root.parent / "newer.tar")
    assert "newer" in error.value.fix
