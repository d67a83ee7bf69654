"""Records that nobody has written since are not read again; whatever anybody writes is seen at the next look."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, update

from orchestrator.errors import StoreError, StoreLost
from orchestrator.models.members import Phase
from orchestrator.models.steps import Advance
from orchestrator.store import Lease, Store, open_store
from orchestrator.store.database import Database
from orchestrator.store.store import Snapshot
from orchestrator.store.tables import members
from tests.builders import NOW, make_spec
from tests.fakes import FakeClock
from tests.unit.storage import Storage, open_storage, url_of

_ELSEWHERE = "another-host:1:1"


def read_anew(storage: Storage, folder: Path) -> Snapshot:
    """As somebody sees it who has never looked."""
    other = open_store(url_of(folder), storage.clock.now)
    try:
        return other.snapshot()
    finally:
        other.close()


def write_reason(folder: Path, reason: str) -> None:
    """As a process of its own writes."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(*sys.argv[2:]); c.commit()"
    statement = f"UPDATE members SET reason = '{reason}'"
    subprocess.run([sys.executable, "-c", script, str(folder / "store.sqlite"), statement], check=True)


def test_while_nobody_writes_nothing_is_read_again(storage: Storage) -> None:
    storage.declare()
    storage.admit()
    before = storage.store.snapshot()
    statements: list[object] = []
    event.listen(storage.store.database._engine, "before_cursor_execute", lambda *said: statements.append(said[2]))
    assert storage.store.snapshot() is before
    assert not statements


def test_what_another_process_wrote_is_seen_at_the_next_look(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.admit()
    for number in range(3):
        storage.store.snapshot()
        write_reason(tmp_path, f"by another process, {number}")
        assert storage.members()[0].reason == f"by another process, {number}"


def test_what_this_process_wrote_is_seen_at_the_next_look(storage: Storage) -> None:
    storage.declare()
    one = storage.admit()
    assert storage.member(one.name).phase is Phase.CREATING
    storage.recorder.perform(Advance(one, Phase.PROVISIONING, "made"))
    assert storage.member(one.name).phase is Phase.PROVISIONING


def test_renewing_the_lease_is_no_news(storage: Storage) -> None:
    storage.declare()
    lease = Lease(storage.store)
    assert lease.take()
    before = storage.store.snapshot()
    assert lease.take()
    assert lease.renew()
    assert storage.store.snapshot() is before


def test_what_was_written_just_before_the_lease_was_renewed_is_seen(storage: Storage, tmp_path: Path) -> None:
    """The renewal reads the newest state of the file, and must not make the change look old by that."""
    storage.declare()
    storage.admit()
    lease = Lease(storage.store)
    lease.take()
    storage.store.snapshot()
    write_reason(tmp_path, "written meanwhile")
    assert lease.take()
    assert storage.members()[0].reason == "written meanwhile"


def test_a_lease_that_another_one_held_meanwhile_costs_a_look(storage: Storage) -> None:
    first = Lease(storage.store, holder=_ELSEWHERE)
    first.take()
    before = storage.store.snapshot()
    other = open_store(str(storage.store.database._engine.url), storage.clock.now)
    first.release()
    assert Lease(other, holder="third:1:1").take()
    other.close()
    after = storage.store.snapshot()
    assert after == before
    assert after is not before


def test_what_is_written_while_it_is_read_is_read_once_more(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.admit()
    storage.store.note("web", "", "noted", "so that it is read again")
    written: list[bool] = []

    def write_once(*said: object) -> None:
        if "members" in str(said[2]) and not written:
            written.append(True)
            write_reason(tmp_path, "written while it was read")

    event.listen(storage.store.database._engine, "before_cursor_execute", write_once)
    first = storage.store.snapshot()
    assert written
    assert first.members[0].reason != "written while it was read"  # a snapshot is of one moment
    assert storage.members()[0].reason == "written while it was read"


def test_a_look_does_not_wait_for_a_lease_that_cannot_be_written(storage: Storage) -> None:
    """Another one writes for long: the renewal waits, whoever looks does not."""
    storage.declare()
    storage.admit()
    lease = Lease(storage.store)
    lease.take()
    database = storage.store.database
    with database.write():
        renewal = threading.Thread(target=lease.renew)
        renewal.start()
        while database.version() is not None:
            pass  # until the renewal has begun
        assert len(storage.store.snapshot().members) == 1
    renewal.join()
    assert database.version() is not None


def test_versions_of_two_connections_are_never_taken_for_each_other(storage: Storage) -> None:
    database = storage.store.database
    before = database.version()
    with pytest.raises(ZeroDivisionError), database.write_lease():
        raise ZeroDivisionError  # whatever went wrong, the connection is not used again
    after = database.version()
    assert before is not None
    assert after is not None
    assert before[0] != after[0]


def test_what_a_lease_did_not_come_to_write_is_not_written(storage: Storage) -> None:
    lease = Lease(storage.store, holder=_ELSEWHERE)
    lease.take()
    with pytest.raises(ZeroDivisionError), storage.store.database.write_lease() as connection:
        connection.exec_driver_sql("DELETE FROM leases")
        raise ZeroDivisionError
    assert lease.is_ours()


def test_a_store_that_is_gone_or_replaced_is_told_though_nothing_is_read(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.store.snapshot()
    file = tmp_path / "store.sqlite"
    file.rename(tmp_path / "away.sqlite")
    with pytest.raises(StoreLost):
        storage.store.snapshot()
    file.write_bytes(b"")
    with pytest.raises(StoreLost):
        storage.store.snapshot()


def test_a_store_whose_file_cannot_be_read_says_so(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.store.snapshot()
    storage.store.close()
    for file in tmp_path.glob("store.sqlite-*"):
        file.unlink()
    with (tmp_path / "store.sqlite").open("r+b") as stream:
        stream.write(b"no database at all")
    with pytest.raises(StoreError):
        storage.store.snapshot()


def test_where_only_reading_tells_it_is_read(tmp_path: Path) -> None:
    """A store that is not known to be a SQLite file, as PostgreSQL's is not."""
    database = Database(f"sqlite+pysqlite:///{tmp_path}/store.sqlite")
    database.ensure_schema(NOW)
    store = Store(database, FakeClock().now)
    first = store.snapshot()
    assert database.version() is None
    assert store.snapshot() == first
    assert store.snapshot() is not first
    assert Lease(store).take()
    store.close()


_Act = Callable[[Storage, Path], object]


def _write_here(storage: Storage, _folder: Path) -> None:
    with storage.store.database.write() as connection:
        connection.execute(update(members).values(failures=members.c.failures + 1))


def _write_there(_storage: Storage, folder: Path) -> None:
    with sqlite3.connect(folder / "store.sqlite") as connection:
        connection.execute("UPDATE members SET failures = failures + 1")
    connection.close()


def _write_lease(storage: Storage, _folder: Path) -> None:
    Lease(storage.store, holder=_ELSEWHERE).take()


def _release(storage: Storage, _folder: Path) -> None:
    Lease(storage.store, holder=_ELSEWHERE).release()


def _declare(storage: Storage, _folder: Path) -> None:
    grown = storage.store.snapshot().sets[0].spec.instances + 1
    storage.declare(make_spec(instances=grown))


def _give_up_a_write(storage: Storage, _folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), storage.store.database.write() as connection:
        connection.execute(update(members).values(failures=members.c.failures + 1))
        raise ZeroDivisionError


def _give_up_a_lease(storage: Storage, _folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), storage.store.database.write_lease():
        raise ZeroDivisionError


def _look(storage: Storage, _folder: Path) -> None:
    storage.store.snapshot()


def _tidy(_storage: Storage, folder: Path) -> None:
    """SQLite moves what was written from its log into the file."""
    connection = sqlite3.connect(folder / "store.sqlite")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


_ACTS: list[_Act] = [
    _write_here,
    _write_there,
    _write_lease,
    _release,
    _declare,
    _give_up_a_write,
    _give_up_a_lease,
    _look,
    _tidy,
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.sampled_from(_ACTS), max_size=12))
def test_whatever_was_done_by_whom_the_next_look_shows_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, acts: list[_Act]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    storage = open_storage(folder)
    try:
        storage.declare()
        storage.admit()
        for act in acts:
            act(storage, folder)
            assert storage.store.snapshot() == read_anew(storage, folder)
    finally:
        storage.store.close()
