"""A controller that lost its lease does nothing more: not the effect it was about to begin, not its record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.ledger import Ledger
from orchestrator.errors import LeaseLost, StoreError
from orchestrator.models.members import Image, Phase, Role
from orchestrator.models.steps import Admit
from orchestrator.store import Fence, Lease
from orchestrator.store.lease import LEASE_TTL
from orchestrator.store.records import Recorder
from tests.fakes import FakeHypervisor, FakeIdentities
from tests.unit.loop import PATIENCE, Site, open_site, running
from tests.unit.storage import Storage, some_addresses

OTHER = "another-host:4711:1234"


# ---- the lease and the fence ---------------------------------------------------------------------------------


def test_a_term_lasts_until_somebody_else_had_the_lease(storage: Storage) -> None:
    mine, other = Lease(storage.store), Lease(storage.store, holder=OTHER)
    assert mine.take()
    term = mine.term
    storage.clock.advance(LEASE_TTL + 1)
    assert mine.is_ours()  # run out, but nobody has taken it
    assert mine.renew()
    assert mine.take()
    assert mine.term == term
    storage.clock.advance(LEASE_TTL + 1)
    assert other.take()
    assert not mine.is_ours()
    assert not mine.renew()
    other.release()
    assert not mine.renew()
    assert mine.take()
    assert mine.term == term + 1


def test_what_was_confirmed_long_ago_is_asked_again(storage: Storage) -> None:
    mine = Lease(storage.store, monotonic=storage.clock.monotonic)
    fence = Fence(mine)
    assert not fence.holds()
    mine.take()
    assert fence.holds()
    storage.clock.advance(LEASE_TTL + 1)
    assert fence.holds()  # the store says so
    Lease(storage.store, holder=OTHER).take()
    assert not fence.holds()
    with pytest.raises(LeaseLost, match="not the controller any more"):
        fence.check()


def test_what_was_decided_under_an_earlier_term_is_void(storage: Storage) -> None:
    mine, other = Lease(storage.store), Lease(storage.store, holder=OTHER)
    fence = Fence(mine)
    mine.take()
    with fence.acting(mine.term):
        fence.check()
        storage.clock.advance(LEASE_TTL + 1)
        other.take()
        other.release()
        mine.take()
        assert not fence.holds()
        with pytest.raises(LeaseLost):
            fence.check()
        with pytest.raises(LeaseLost), storage.store.database.write() as connection:
            fence.check_in(connection)
    with fence.acting(mine.term):
        fence.check()


class SilentLease(Lease):
    """Taken, but then the store cannot be read."""

    def is_ours(self) -> bool:
        raise StoreError("cannot use the store: disk I/O error")


def test_nothing_is_done_while_the_store_cannot_tell_whose_the_lease_is(storage: Storage) -> None:
    mine = SilentLease(storage.store, monotonic=storage.clock.monotonic)
    fence = Fence(mine)
    mine.take()
    assert fence.holds()  # confirmed a moment ago
    with pytest.raises(LeaseLost):
        fence.check()
    storage.clock.advance(LEASE_TTL + 1)
    assert not fence.holds()


def test_threads_have_their_terms_by_themselves(storage: Storage) -> None:
    mine = Lease(storage.store)
    fence = Fence(mine)
    mine.take()
    seen: list[bool] = []
    with fence.acting(mine.term - 1):
        thread = threading.Thread(target=lambda: seen.append(fence.holds()))
        thread.start()
        thread.join()
        assert not fence.holds()
    assert seen == [True]


def test_a_record_without_the_lease_writes_nothing(storage: Storage) -> None:
    mine = Lease(storage.store)
    recorder = Recorder(storage.store, FakeIdentities().member_suffix, some_addresses, Fence(mine))
    storage.declare()
    admission = Admit("web", Role.INSTANCE, "local", "a", "because it is wanted", "admitted")
    assert mine.take()
    assert recorder.perform(admission)
    (member,) = storage.members()
    storage.clock.advance(LEASE_TTL + 1)
    assert Lease(storage.store, holder=OTHER).take()
    before = storage.kinds()
    for record in (
        lambda: recorder.perform(admission),
        lambda: recorder.failed(member, "a reason"),
        lambda: recorder.complained(member, "a reason"),
        lambda: recorder.refused(member, "a reason"),
    ):
        with pytest.raises(LeaseLost):
            record()
    assert storage.members() == [member]
    assert storage.kinds() == before


# ---- the loop ------------------------------------------------------------------------------------------------


class HeldUp(FakeHypervisor):
    """Something happens while an image is copied, once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.meanwhile: Callable[[], object] = lambda: None
        self.has_happened = threading.Event()

    def ensure_image(self, image: Image, file: Path) -> None:
        super().ensure_image(image, file)
        if not self.has_happened.is_set():
            self.meanwhile()
            self.has_happened.set()


@pytest.fixture
def held_up(tmp_path: Path) -> Iterator[tuple[Site, HeldUp]]:
    with open_site(tmp_path, make_host=HeldUp) as made:
        assert isinstance(made.host, HeldUp)
        yield made, made.host


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def lose_lease(site: Site) -> Lease:
    """The controller was held up for longer than its lease, and another one has taken it."""
    other = Lease(site.store, holder=OTHER)
    site.clock.advance(LEASE_TTL + 1)
    assert other.take()
    return other


def test_a_turn_that_was_held_up_begins_nothing_more(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    lose_lease(site)
    site.scale(3)
    known, converged = kinds(site), site.journal.count("converge")
    with pytest.raises(LeaseLost):
        site.controller.turn()
    assert len(site.members()) == 1
    assert site.host.calls["create_machine"] == 1
    assert site.journal.count("converge") == converged
    assert kinds(site) == known


def test_a_turn_that_was_held_up_writes_no_copy_of_a_set_that_was_deleted_meanwhile(site: Site) -> None:
    site.ledger = Ledger(site.folder / "declarations", site.folder / "image-records")
    site.apply(instances=1)
    site.settle()
    lose_lease(site)
    site.ledger.forget("web")
    with pytest.raises(LeaseLost):
        site.controller.turn()
    assert site.ledger.declarations() == ()


def test_an_effect_that_was_held_up_ends_before_its_next_call(held_up: tuple[Site, HeldUp]) -> None:
    site, host = held_up
    host.meanwhile = lambda: lose_lease(site)
    site.apply(instances=1)
    site.controller.turn()
    site.controller.turn()
    assert host.has_happened.wait(PATIENCE)
    site.crash()  # waits for the effect
    assert host.calls["create_machine"] == 0
    assert (site.only().phase, site.only().failures) == (Phase.CREATING, 0)
    assert not {"trouble", "failed"} & set(kinds(site))


def test_an_effect_decided_before_the_lease_was_lost_and_taken_again_is_begun_anew(
    held_up: tuple[Site, HeldUp],
) -> None:
    site, host = held_up
    host.meanwhile = lambda: lose_lease(site).release()
    site.apply(instances=1)
    with running(site.make_controller()) as looked:
        give_up = time.monotonic() + PATIENCE
        while not site.is_settled("web"):
            assert time.monotonic() < give_up, site.picture()
            looked.wait(0.05)
            looked.clear()
    assert host.has_happened.is_set()
    assert (host.calls["create_machine"], site.only().incarnation, site.only().failures) == (1, 1, 0)
    assert [kind for kind in kinds(site) if kind == "provisioning"] == ["provisioning"]


def test_what_a_controller_without_its_lease_waits_for_is_given_up_and_not_recorded(site: Site) -> None:
    site.apply(instances=1)
    site.turn_until(lambda: bool(site.members()))
    name = site.only().name
    site.guest.hold(name)
    give_up = time.monotonic() + PATIENCE
    with running(site.controller):
        while not site.guest.waiting[name]:
            assert time.monotonic() < give_up, site.picture()
        other = lose_lease(site)
        while site.guest.waiting[name]:
            assert time.monotonic() < give_up, site.picture()
        site.guest.let_go(name)
    assert site.phase(name) is Phase.PROVISIONING
    assert "ready" not in kinds(site)
    assert other.is_ours()


def kinds(site: Site) -> list[str]:
    return [event.kind for event in site.store.list_events(None)]
