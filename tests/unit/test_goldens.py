"""Golden images: what is remembered of those that failed, and how they are listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.models.golden import GoldenImage
from orchestrator.models.members import Member
from orchestrator.planner.golden import GIVES_UP_AFTER
from orchestrator.service.goldens import golden_rows
from tests.builders import MIB, NOW, make_image, make_member, make_set
from tests.unit.storage import Storage, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    made = open_storage(tmp_path)
    made.declare()
    yield made
    made.store.close()


def refuse(storage: Storage, member: Member, reason: str = "no room") -> None:
    storage.recorder.golden_failed(member, "golden_refused", reason)
    storage.clock.advance(100)


def told(storage: Storage) -> list[str]:
    return [event.reason for event in storage.store.list_events("web") if event.kind == "golden_refused"]


def failures(storage: Storage) -> dict[tuple[str, str], int]:
    return {place: one.failures for place, one in storage.store.snapshot().golden_troubles.items()}


def test_the_first_failure_and_the_last_are_told_and_all_are_counted(storage: Storage) -> None:
    member = storage.admit()
    place = (member.host, member.model)
    for number in range(1, GIVES_UP_AFTER + 2):
        refuse(storage, member)
        assert failures(storage) == {place: number}
    first, last = told(storage)
    assert first == "no room"
    assert last == f"no room; machines of model {member.model} boot on local until it changes"


def test_forks_that_fail_together_count_once(storage: Storage) -> None:
    member = storage.admit()
    for _ in range(4):
        storage.recorder.golden_failed(member, "fork_refused", "damaged")
    assert failures(storage) == {(member.host, member.model): 1}
    assert len(storage.store.list_events("web")) == 3  # declared, admitted, refused


def test_a_success_ends_the_row(storage: Storage) -> None:
    member = storage.admit()
    refuse(storage, member)
    storage.recorder.golden_taken(member, "taken")
    assert failures(storage) == {}
    refuse(storage, member)
    storage.recorder.fork_is_well(member)
    assert failures(storage) == {}
    assert [event.reason for event in storage.store.list_events("web") if event.kind == "golden_taken"] == [
        "taken"
    ]


def test_applying_the_same_again_tries_again(storage: Storage) -> None:
    member = storage.admit()
    refuse(storage, member)
    storage.store.touch_set("web")
    assert failures(storage) == {}


def test_what_is_known_of_models_that_no_set_declares_any_more_is_forgotten(storage: Storage) -> None:
    member = storage.admit()
    refuse(storage, member)
    storage.declare(machine={"memory": "256MiB"})
    changed = storage.admit()
    refuse(storage, changed)
    assert failures(storage) == {(changed.host, changed.model): 1}


def test_a_listing_names_sets_and_images_by_what_is_known() -> None:
    wanted, image = make_set(), make_image()
    old = make_member(wanted, "00007", model="fedcba9876543210")
    golden = GoldenImage(wanted.model, image.digest, "understudy-web-00001", 5 * MIB, 70 * MIB, NOW - 60)
    stale = GoldenImage(old.model, "ab" * 32, "understudy-web-00007", MIB, MIB, NOW + 5)
    first, second = golden_rows({"local": [golden, stale], "far": []}, [wanted], [old], [image], NOW)
    assert first == {
        "host": "local",
        "model": wanted.model,
        "sets": ["web"],
        "image": "micro:1",
        "source": "understudy-web-00001",
        "disk": 5 * MIB,
        "memory": 70 * MIB,
        "created_at": NOW - 60,
        "age": 60.0,
    }
    assert (second["sets"], second["image"], second["age"]) == (["web"], "", 0.0)
