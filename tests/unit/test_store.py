"""Wishes, images, events and facts, on real SQLite."""

from __future__ import annotations

import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete

from orchestrator.errors import Conflict, NotFound, StoreError, StoreLost
from orchestrator.models.members import Image, Member, Phase, Request, Role
from orchestrator.models.steps import EffectKind
from orchestrator.store import Lease, open_store
from orchestrator.store.migrations import MIGRATIONS
from orchestrator.store.tables import SCHEMA_VERSION, facts, images
from tests.builders import NOW, make_image, make_spec
from tests.fakes import FakeClock, FakeIdentities
from tests.unit.storage import Storage, open_storage, url_of

# ---- the file ------------------------------------------------------------------------------------------------


def test_a_store_is_made_on_first_use_for_its_owner_only(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/deep/store.sqlite", FakeClock().now)
    assert store.snapshot().sets == ()
    assert stat.S_IMODE((tmp_path / "deep" / "store.sqlite").stat().st_mode) == 0o600
    store.close()


def test_what_was_written_is_there_after_reopening(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.admit()
    again = open_store(url_of(tmp_path), FakeClock().now)
    assert again.snapshot() == storage.store.snapshot()
    again.close()


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(storage: Storage, tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    storage.store.close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE facts SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(StoreError) as error:
        open_store(url_of(tmp_path), FakeClock().now)
    assert "schema version 99" in error.value.message
    assert "newer" in error.value.fix


@pytest.mark.parametrize("version", sorted(MIGRATIONS))
def test_a_store_of_an_older_version_is_brought_up_to_date(version: int, storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.admit()
    storage.put(storage.admit(), Phase.IN_SERVICE)
    before = storage.store.snapshot()
    storage.store.close()
    make_older(tmp_path, version)
    for _ in range(2):
        again = open_store(url_of(tmp_path), FakeClock().now)
        assert again.snapshot() == replace(before, members=tuple(map(without_memory, before.members)))
        again.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        found = connection.execute("SELECT value FROM facts WHERE key = 'schema_version'").fetchone()
    connection.close()
    assert found == (str(SCHEMA_VERSION),)


def make_older(folder: Path, version: int) -> None:
    """The store there, which nobody has open, is one of that version."""
    with sqlite3.connect(folder / "store.sqlite") as connection:
        for statement in takes_back(version):
            connection.execute(statement)
        connection.execute(f"UPDATE facts SET value = '{version}' WHERE key = 'schema_version'")
    connection.close()


def without_memory(member: Member) -> Member:
    """No older version recorded it."""
    return replace(member, memory=0)


def takes_back(version: int) -> list[str]:
    """What makes a store one of an older version: every column and table that was added since goes."""
    since = [one for number, statements in MIGRATIONS.items() if number >= version for one in statements]
    columns = [re.fullmatch(r"ALTER TABLE (\w+) ADD COLUMN (\w+) .*", one) for one in since]
    tables = [re.match(r"CREATE TABLE (\w+) ", one) for one in since]
    return [f"ALTER TABLE {one[1]} DROP COLUMN {one[2]}" for one in columns if one is not None] + [
        f"DROP TABLE {one[1]}" for one in tables if one is not None
    ]


def test_the_tables_of_a_migrated_store_are_those_of_a_new_one(storage: Storage, tmp_path: Path) -> None:
    storage.store.close()
    file = tmp_path / "store.sqlite"
    with sqlite3.connect(file) as connection:
        new = columns_of(connection)
        for statement in takes_back(1):
            connection.execute(statement)
        assert columns_of(connection) != new
        connection.execute("UPDATE facts SET value = '1' WHERE key = 'schema_version'")
    connection.close()
    open_store(url_of(tmp_path), FakeClock().now).close()
    with sqlite3.connect(file) as connection:
        assert columns_of(connection) == new
    connection.close()


def columns_of(connection: sqlite3.Connection) -> dict[str, set[tuple[str, str, int, int]]]:
    """Table -> (name, type, NOT NULL, part of the key) of its columns."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        table: {(row[1], row[2], row[3], row[5]) for row in connection.execute(f"PRAGMA table_info({table})")}
        for (table,) in tables
    }


def test_who_was_let_go_before_that_was_kept_is_taken_from_the_events(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.DELETING)
    storage.recorder.succeeded(member, EffectKind.DESTROY, "removed")
    assert storage.store.find_departed([member.name, "web-other"]) == {member.name}
    storage.store.close()
    make_older(tmp_path, 3)
    again = open_store(url_of(tmp_path), FakeClock().now)
    assert again.find_departed([member.name, "web-other"]) == {member.name}
    again.close()


def test_of_sets_declared_together_none_is_written_if_one_cannot_be(storage: Storage) -> None:
    storage.declare()
    storage.store.mark_deleting("web")
    with pytest.raises(Conflict, match="set 'web' is being deleted"):
        storage.store.declare_sets([(one, storage.image, "m") for one in (make_spec(name="api"), make_spec())])
    assert [one.name for one in storage.store.snapshot().sets] == ["web"]


def test_what_had_failed_in_an_older_store_keeps_its_reason(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    failed = storage.admit()
    storage.recorder.failed(failed, "no net")
    other = storage.admit()
    storage.store.close()
    make_older(tmp_path, 4)
    again = open_store(url_of(tmp_path), FakeClock().now)
    said = {one.name: one.last_failure for one in again.snapshot().members}
    assert said == {failed.name: "no net", other.name: ""}
    again.close()


def test_no_store_is_changed_under_an_older_controller(storage: Storage, tmp_path: Path) -> None:
    Lease(storage.store, holder="elsewhere:1:1").take()
    storage.store.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute("UPDATE facts SET value = '1' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(StoreError, match="an older Understudy"):
        open_store(url_of(tmp_path), FakeClock().now)


def test_every_older_version_has_its_way_to_the_next() -> None:
    assert set(MIGRATIONS) == set(range(1, SCHEMA_VERSION))


def test_a_file_that_is_no_store_is_refused_and_the_ways_back_are_named(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("this is a diary\n" * 100, encoding="utf-8")
    with pytest.raises(StoreError) as error:
        open_store(url_of(tmp_path), FakeClock().now)
    assert "is damaged" in error.value.message
    assert "understudy restore" in error.value.fix
    assert "understudy adopt" in error.value.fix


def test_a_store_that_is_damaged_in_the_middle_says_so(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    for _ in range(50):
        storage.admit()
    storage.store.close()
    file = tmp_path / "store.sqlite"
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(StoreError) as error:
        open_store(url_of(tmp_path), FakeClock().now).snapshot()
    assert "is damaged" in error.value.message


def test_a_store_that_is_taken_away_or_replaced_while_it_is_used_is_used_no_more(
    storage: Storage, tmp_path: Path
) -> None:
    storage.declare()
    (tmp_path / "store.sqlite").rename(tmp_path / "aside.sqlite")
    with pytest.raises(StoreLost, match="is gone"):
        storage.store.snapshot()
    open_store(url_of(tmp_path), FakeClock().now).close()
    with pytest.raises(StoreLost, match="was replaced"):
        storage.declare(instances=7)


def test_no_name_is_given_twice(tmp_path: Path) -> None:
    made = open_storage(tmp_path, RepeatingIdentities())
    made.declare()
    first = made.put(made.admit(), Phase.DELETING)
    made.recorder.succeeded(first, EffectKind.DESTROY, "removed")
    assert made.admit().name != first.name
    made.store.close()


class RepeatingIdentities(FakeIdentities):
    """Says every suffix twice."""

    def __init__(self) -> None:
        super().__init__()
        self._again = ""

    def member_suffix(self) -> str:
        if self._again:
            said, self._again = self._again, ""
            return said
        self._again = super().member_suffix()
        return self._again


def test_a_store_that_cannot_be_opened_is_refused_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").mkdir()
    with pytest.raises(StoreError) as error:
        open_store(url_of(tmp_path), FakeClock().now)
    assert "cannot use the store" in error.value.message
    assert "state directory" in error.value.fix


# ---- sets ----------------------------------------------------------------------------------------------------


def test_a_declared_set_is_read_back_as_it_was_written(storage: Storage) -> None:
    spec = make_spec(standby={"max_ready": 4}, setup={"timeout": "90s"})
    assert storage.declare(spec)
    found = storage.store.find_set("web")
    assert found is not None
    assert (found.spec, found.image) == (spec, storage.image)
    assert (found.generation, found.settled_generation, found.deleting, found.stuck) == (1, 0, False, "")


def test_the_same_wish_again_is_no_change(storage: Storage) -> None:
    storage.declare()
    assert not storage.declare()
    found = storage.store.find_set("web")
    assert found is not None
    assert found.generation == 1
    assert storage.kinds() == ["set_declared"]


def test_another_wish_is_a_new_generation(storage: Storage) -> None:
    storage.declare(instances=2)
    assert storage.declare(instances=3)
    found = storage.store.find_set("web")
    assert found is not None
    assert (found.spec.instances, found.generation) == (3, 2)
    assert storage.kinds() == ["set_declared", "settings_changed"]


def test_a_set_being_deleted_cannot_be_declared_again_yet(storage: Storage) -> None:
    storage.declare()
    storage.store.mark_deleting("web")
    with pytest.raises(Conflict, match="'web' is being deleted"):
        storage.declare(instances=5)


def test_deleting_what_is_not_there_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound):
        storage.store.mark_deleting("web")


def test_deleting_is_a_wish_of_its_own_generation(storage: Storage) -> None:
    storage.declare()
    storage.store.mark_deleting("web")
    found = storage.store.find_set("web")
    assert found is not None
    assert (found.deleting, found.generation, found.wanted_instances, found.standby_target) == (True, 2, 0, 0)


def test_a_wish_to_look_again_makes_failed_members_due_and_no_others(storage: Storage) -> None:
    storage.declare()
    storage.declare(name="api", endpoints=[])
    failed = storage.put(storage.admit(), Phase.FAILED)
    fine = storage.put(storage.admit(), Phase.PROVISIONING)
    elsewhere = storage.put(storage.admit(set_name="api"), Phase.FAILED)
    storage.store.touch_set("web")
    assert storage.member(failed.name).phase_since == 0.0
    assert storage.member(fine.name).phase_since == NOW
    assert storage.member(elsewhere.name).phase_since == NOW
    found = storage.store.find_set("web")
    assert found is not None
    assert found.generation == 2


def test_another_wish_makes_failed_members_due_too(storage: Storage) -> None:
    storage.declare()
    failed = storage.put(storage.admit(), Phase.FAILED)
    storage.declare(instances=5)
    assert storage.member(failed.name).phase_since == 0.0


# ---- members and requests ------------------------------------------------------------------------------------


def test_a_member_is_found_by_its_name_or_its_last_part(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    assert storage.store.get_member("web", member.name) == member
    assert storage.store.get_member("web", member.name.removeprefix("web-")) == member


def test_a_member_that_is_not_there_is_not_found_and_the_others_are_named(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    with pytest.raises(NotFound) as error:
        storage.store.get_member("web", "zzzzz")
    assert member.name in error.value.fix
    with pytest.raises(NotFound):
        storage.store.get_member("api", member.name)


def test_a_request_is_kept_with_the_member_and_is_a_wish_of_its_set(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    storage.store.request(member, Request.REIMAGE)
    assert storage.member(member.name).request is Request.REIMAGE
    found = storage.store.find_set("web")
    assert found is not None
    assert found.generation == 2
    assert storage.kinds()[-1] == "reimage_requested"


def test_a_request_can_change_the_declared_size_in_the_same_breath(storage: Storage) -> None:
    storage.declare(instances=2)
    member = storage.admit()
    storage.store.request(member, Request.REMOVE, fewer=1)
    found = storage.store.find_set("web")
    assert found is not None
    assert found.spec.instances == 1


# ---- images --------------------------------------------------------------------------------------------------


def add(storage: Storage, name: str = "micro", digest: str = "d2" * 32) -> Image:
    return storage.store.add_image(
        name, lambda version: replace(make_image(digest=digest), name=name, version=version)
    )


def test_versions_of_an_image_count_up_for_each_name(storage: Storage) -> None:
    assert [add(storage).ref, add(storage).ref, add(storage, "debian-12").ref] == [
        "micro:2",
        "micro:3",
        "debian-12:1",
    ]


def test_a_number_is_given_once_whatever_was_removed(storage: Storage) -> None:
    storage.store.remove_image(add(storage))
    storage.store.remove_image(storage.image)
    assert add(storage).ref == "micro:3"
    assert storage.store.given_versions() == {"micro": 3}


def test_a_store_of_a_version_that_remembered_no_numbers_goes_by_its_images(storage: Storage) -> None:
    add(storage)
    with storage.store.database.write() as connection:
        connection.execute(delete(facts).where(facts.c.key.startswith("given image version")))
    assert storage.store.given_versions() == {"micro": 2}
    storage.store.remove_image(storage.store.list_images()[1])
    assert add(storage).ref == "micro:3"


def test_a_number_that_is_known_elsewhere_is_not_given(storage: Storage) -> None:
    made = storage.store.add_image("micro", lambda version: replace(make_image(), version=version), given=7)
    assert (made.ref, storage.store.given_versions()) == ("micro:8", {"micro": 8})


def test_an_image_is_found_by_name_as_its_newest_version_or_by_version(storage: Storage) -> None:
    newest = add(storage)
    assert storage.store.find_image("micro") == newest
    assert storage.store.find_image("micro:1") == storage.image
    assert storage.store.find_image("micro:9") is None
    assert storage.store.find_image("debian-12") is None


def test_version_10_is_newer_than_version_9(storage: Storage) -> None:
    for _ in range(9):
        newest = add(storage)
    assert newest.version == 10
    assert storage.store.find_image("micro") == newest


def test_an_image_nobody_uses_can_be_removed(storage: Storage) -> None:
    storage.store.remove_image(storage.image)
    assert storage.store.list_images() == []
    storage.store.remove_image(storage.image)


def test_an_image_that_a_set_declares_cannot_be_removed(storage: Storage) -> None:
    storage.declare()
    with pytest.raises(Conflict, match=r"'micro:1' is in use by web"):
        storage.store.remove_image(storage.image)
    assert storage.store.list_images() == [storage.image]


def test_an_image_that_a_machine_was_made_from_cannot_be_removed(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    newer = add(storage)
    spec = make_spec()
    storage.store.declare_set(spec, newer, "another model")
    assert storage.store.image_users(storage.image) == [member.name]
    assert storage.store.image_users(newer) == ["web"]
    with pytest.raises(Conflict, match=member.name):
        storage.store.remove_image(storage.image)


def test_one_of_two_images_with_the_same_content_can_be_removed(storage: Storage) -> None:
    storage.declare()
    storage.admit()
    twin = add(storage, "copy", storage.image.digest)
    storage.store.remove_image(twin)
    with pytest.raises(Conflict):
        storage.store.remove_image(storage.image)


def test_an_image_that_is_removed_while_a_set_is_declared_on_it_is_refused(storage: Storage) -> None:
    """It was looked up in a transaction of its own."""
    storage.store.remove_image(storage.image)
    with pytest.raises(Conflict, match=r"set 'web': image 'micro:1' was removed meanwhile") as caught:
        storage.declare()
    assert "understudy image list" in caught.value.fix
    assert storage.store.snapshot().sets == ()
    assert storage.kinds() == []


def test_a_set_does_not_change_to_an_image_that_was_removed_meanwhile(storage: Storage) -> None:
    storage.declare()
    newer = add(storage)
    storage.store.remove_image(newer)
    before = storage.store.snapshot()
    with pytest.raises(Conflict, match="'micro:2' was removed meanwhile"):
        storage.store.declare_set(make_spec(instances=7), newer, "another model")
    assert storage.store.snapshot() == before


def test_an_image_of_that_name_but_other_content_is_not_the_one_that_was_looked_up(storage: Storage) -> None:
    with pytest.raises(Conflict, match="was removed meanwhile"):
        storage.store.declare_set(make_spec(), replace(storage.image, digest="e5" * 32), "a model")


def lose_image(storage: Storage) -> None:
    """As an older version could."""
    with storage.store.database.write() as connection:
        connection.execute(delete(images))


def test_a_set_whose_image_is_recorded_no_more_stands_in_nobodys_way(storage: Storage) -> None:
    storage.declare(instances=2)
    lose_image(storage)
    (found,) = storage.store.snapshot().sets
    assert (found.image.ref, found.image.is_lost) == ("micro:1", True)
    other = add(storage, "other")
    assert storage.store.declare_set(make_spec(name="api"), other, "a model")
    assert [one.image.is_lost for one in storage.store.snapshot().sets] == [False, True]


def test_a_set_whose_image_is_recorded_no_more_can_shrink_change_and_go(storage: Storage) -> None:
    storage.declare(instances=2)
    lose_image(storage)
    lost = storage.store.snapshot().sets[0].image
    assert storage.store.declare_set(make_spec(instances=1), lost, "a model")
    newer = add(storage, "other")
    assert storage.store.declare_set(make_spec(), newer, "another model")
    assert storage.store.snapshot().sets[0].image == newer
    storage.store.mark_deleting("web")


# ---- events and facts ----------------------------------------------------------------------------------------


def test_events_come_oldest_first_and_can_be_followed(storage: Storage) -> None:
    for number in range(3):
        storage.clock.advance(1)
        storage.store.note("web", "", "claim_cold", f"reason {number}")
    events = storage.store.list_events("web")
    assert [event.reason for event in events] == ["reason 0", "reason 1", "reason 2"]
    assert [event.at for event in events] == [NOW + 1, NOW + 2, NOW + 3]
    assert storage.store.list_events("web", after=events[1].id) == [events[2]]
    assert storage.store.list_events("web", limit=2) == events[1:]
    assert storage.store.list_events("api") == []


def test_a_fact_is_any_json_and_the_last_one_counts(storage: Storage) -> None:
    assert storage.store.read_fact("accelerator") is None
    storage.store.write_fact("accelerator", {"kind": "kvm", "seconds": 1.5})
    storage.store.write_fact("accelerator", ["tcg", None, "ä"])
    assert storage.store.read_fact("accelerator") == ["tcg", None, "ä"]


def test_an_installation_has_one_name_for_ever(storage: Storage, tmp_path: Path) -> None:
    name = storage.store.installation()
    assert name == storage.store.installation()
    other = open_store(f"sqlite:///{tmp_path}/other.sqlite", FakeClock().now)
    assert other.installation() != name
    other.close()


# ---- several writers -----------------------------------------------------------------------------------------


def all_at_once(*work: Callable[[], object]) -> list[BaseException]:
    """Run in threads that begin together; what they raised."""
    gate = threading.Barrier(len(work))

    def run(one: Callable[[], object]) -> None:
        gate.wait()
        one()

    with ThreadPoolExecutor(len(work)) as pool:
        raised = [future.exception() for future in [pool.submit(run, one) for one in work]]
    return [error for error in raised if error is not None]


def test_writers_in_many_threads_lose_nothing(storage: Storage) -> None:
    storage.declare()

    def write(number: int) -> None:
        for _ in range(5):
            storage.store.note("web", str(number), "note", "a reason")
            storage.perform_admission()

    assert all_at_once(*(lambda number=number: write(number) for number in range(6))) == []
    assert storage.kinds().count("note") == 30
    members = storage.members()
    assert len(members) == 30
    for field in ("name", "address", "mac"):
        assert len({getattr(member, field) for member in members}) == 30


def test_versions_given_out_at_once_are_all_different(storage: Storage) -> None:
    assert all_at_once(*[lambda: add(storage)] * 8) == []
    assert [image.version for image in storage.store.list_images()] == list(range(1, 10))


def test_two_processes_agree_on_the_name_of_their_installation(storage: Storage, tmp_path: Path) -> None:
    stores = [open_store(url_of(tmp_path), FakeClock().now) for _ in range(4)]
    names: list[str] = []
    assert all_at_once(*(lambda store=store: names.append(store.installation()) for store in stores)) == []
    assert len(set(names)) == 1
    for store in stores:
        store.close()


def test_a_new_store_opened_by_many_at_once_is_made_once(tmp_path: Path) -> None:
    stores = []

    def open_it() -> None:
        stores.append(open_store(f"sqlite:///{tmp_path}/new.sqlite", FakeClock().now))

    assert all_at_once(*[open_it] * 6) == []
    assert len({store.installation() for store in stores}) == 1
    for store in stores:
        store.close()


def test_a_reader_sees_a_write_whole_or_not_at_all(storage: Storage) -> None:
    """The size and the request are one write: no snapshot has one without the other."""
    storage.declare(instances=2)
    members = [storage.admit() for _ in range(2)]
    done = threading.Event()
    torn: list[str] = []

    def read() -> None:
        while not done.is_set():
            seen = storage.store.snapshot()
            asked = sum(member.request is Request.REMOVE for member in seen.members)
            if seen.sets[0].spec.instances != 2 - asked:
                torn.append(f"{seen.sets[0].spec.instances} wanted, {asked} asked to go")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for member in members:
            storage.store.request(member, Request.REMOVE, fewer=1)
    finally:
        done.set()
        reader.join()
    assert torn == []


def test_roles_and_phases_are_stored_as_words(storage: Storage, tmp_path: Path) -> None:
    storage.declare()
    storage.admit(Role.STANDBY)
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        row = connection.execute("SELECT role, phase, request FROM members").fetchone()
    connection.close()
    assert row == ("standby", "creating", None)
