"""A store that does not know the machines of its installation: nothing is done, above all nothing is removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.ledger import Ledger
from orchestrator.errors import StoreError, StoreLost
from orchestrator.models.adoption import Declaration
from orchestrator.models.members import ScaleSet
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Power
from orchestrator.models.steps import Settle
from orchestrator.planner import plan
from orchestrator.service.identity import ensure_identity
from orchestrator.store import Store, open_store
from tests.builders import PREFIX, make_image, make_set, make_spec
from tests.fakes import FakeClock
from tests.unit.examples import many
from tests.unit.loop import Site, open_site
from tests.unit.storage import Storage, url_of
from tests.unit.world import World
from tests.unit.worlds import worlds


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def domain(member: str) -> str:
    return domain_name(PREFIX, member)


# ---- the plan ------------------------------------------------------------------------------------------------


@many
@given(worlds())
def test_a_store_that_has_never_heard_of_a_machine_leads_to_nothing_but_saying_so(world: World) -> None:
    forgotten = replace(world, members={}, drives={})
    desired = replace(forgotten.desired(), departed=frozenset())
    if not world.machines():
        return
    first = plan(desired, world.observed(), {}, world.now)
    second = plan(desired, world.observed(), {}, world.now, first.suspects)
    assert first.steps == ()
    assert all(isinstance(step, Settle) for step in second.steps)
    assert all(
        "the store does not know machines" in step.stuck for step in second.steps if isinstance(step, Settle)
    )
    third = plan(desired, world.observed(), {}, world.now + 60, second.suspects)
    assert third.steps == second.steps


@many
@given(worlds(), st.text(min_size=1, max_size=20))
def test_while_there_is_a_reason_to_hold_nothing_is_planned(world: World, reason: str) -> None:
    made = plan(replace(world.desired(), hold=reason), world.observed(), {}, world.now)
    assert all(isinstance(step, Settle) and reason in step.stuck for step in made.steps)


# ---- the loop ------------------------------------------------------------------------------------------------


def lose_the_store(site: Site) -> None:
    """As it is when its file is gone, and the set is declared again."""
    site.crash()
    with site.store.database.write() as connection:
        for table in ("members", "sets", "drives", "departed", "events"):
            connection.exec_driver_sql(f"DELETE FROM {table}")


def test_an_empty_store_removes_no_machine_and_makes_none(site: Site) -> None:
    site.apply(instances=2, standby={"max_ready": 4})
    site.settle()
    before = {name: (one.power, one.boots) for name, one in site.host.machines.items()}
    rotation = site.balancer.rotation()
    lose_the_store(site)
    site.apply(instances=2)
    for _ in range(6):
        site.controller.turn()
        site.clock.advance(60)
    assert "understudy adopt" in site.settle_stuck()
    assert "the store does not know machines of this installation" in site.settle_stuck()
    assert {name: (one.power, one.boots) for name, one in site.host.machines.items()} == before
    assert site.balancer.rotation() == rotation
    assert site.store.snapshot().members == ()


def test_one_machine_that_nobody_knows_holds_everything(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    made = next(iter(site.host.machines.values())).blueprint
    site.host.create_machine(replace(made, domain=domain("web-str4n"), member="web-str4n"), None)
    site.scale(3)
    assert "understudy-web-str4n" in site.settle_stuck()
    assert len(site.host.machines) == 2
    assert site.host.power(domain("web-str4n")) is Power.RUNNING


def test_a_newer_body_than_the_recorded_one_is_not_thrown_away(site: Site) -> None:
    """The store is that of before two reimages; nobody else has come or gone since."""
    site.apply(instances=1)
    site.settle()
    made = site.host.machines[domain(site.only().name)].blueprint
    site.host.create_machine(replace(made, incarnation=3), None)
    site.store.touch_set("web")
    assert made.domain in site.settle_stuck()
    assert site.host.machines[made.domain].blueprint.incarnation == 3


def test_once_it_is_known_work_goes_on(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    made = next(iter(site.host.machines.values())).blueprint
    site.host.create_machine(replace(made, domain=domain("web-str4n"), member="web-str4n"), None)
    site.scale(3)
    site.settle_stuck()
    site.let_go("web-str4n")
    site.settle()
    assert site.host.power(domain("web-str4n")) is Power.ABSENT
    assert len(site.host.machines) == 3


def test_a_machine_that_somebody_cloned_from_ours_is_not_ours(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    made = next(iter(site.host.machines.values())).blueprint
    site.host.create_machine(replace(made, domain=f"{made.domain}-clone"), None)
    site.settle_again()
    assert site.host.power(f"{made.domain}-clone") is Power.RUNNING


# ---- the installation's name ---------------------------------------------------------------------------------


def test_the_name_of_a_new_installation_is_kept_beside_its_store(storage: Storage, tmp_path: Path) -> None:
    file = tmp_path / "installation"
    name = ensure_identity(storage.store, file)
    assert file.read_text(encoding="ascii") == f"{name}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert ensure_identity(storage.store, file) == name == storage.store.installation()
    assert storage.store.snapshot().hold == ""


def reopened(folder: Path) -> Store:
    return open_store(url_of(folder), FakeClock().now)


def test_a_store_that_was_lost_gets_the_name_back_and_is_held(storage: Storage, tmp_path: Path) -> None:
    name = ensure_identity(storage.store, tmp_path / "installation")
    storage.store.close()
    (tmp_path / "store.sqlite").unlink()
    for _ in range(2):
        again = reopened(tmp_path)
        assert ensure_identity(again, tmp_path / "installation") == name
        assert "its store was lost" in again.snapshot().hold
        again.close()


def test_a_store_of_an_older_version_gives_its_name_to_the_file(storage: Storage, tmp_path: Path) -> None:
    name = storage.store.installation()
    assert ensure_identity(storage.store, tmp_path / "installation") == name
    assert storage.store.snapshot().hold == ""


def test_the_store_of_another_installation_is_refused(storage: Storage, tmp_path: Path) -> None:
    ensure_identity(storage.store, tmp_path / "installation")
    (tmp_path / "installation").write_text("feedfeedfeedfeed\n", encoding="ascii")
    with pytest.raises(StoreError, match="feedfeedfeedfeed"):
        ensure_identity(storage.store, tmp_path / "installation")


# ---- copies of declarations ----------------------------------------------------------------------------------


def ledger(folder: Path) -> Ledger:
    return Ledger(folder / "declarations", folder / "image-records")


def wanted(generation: int = 1, **fields: object) -> ScaleSet:
    return replace(make_set(make_spec(**fields)), generation=generation)


def test_a_copy_is_private_and_read_back_as_it_was_declared(tmp_path: Path) -> None:
    one = wanted(3, instances=5, setup={"user_data": "#!/bin/sh\necho 'a secret'\n"})
    assert ledger(tmp_path).keep([one]) == ""
    assert ledger(tmp_path).declarations() == (Declaration.of(one),)
    (file,) = (tmp_path / "declarations").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "declarations").stat().st_mode & 0o777 == 0o700


def test_a_copy_follows_the_store_and_is_written_only_when_something_changed(tmp_path: Path) -> None:
    kept = ledger(tmp_path)
    kept.keep([wanted(1)])
    before = (tmp_path / "declarations" / "web.json").stat().st_ino
    assert kept.keep([wanted(9)]) == ""
    assert (tmp_path / "declarations" / "web.json").stat().st_ino == before
    assert kept.keep([wanted(10, instances=7)]) == ""
    assert ledger(tmp_path).declarations()[0].spec.instances == 7


@pytest.mark.parametrize("generation", [3, 4])
def test_a_store_older_than_its_copy_is_found_out_and_the_copy_stays(generation: int, tmp_path: Path) -> None:
    ledger(tmp_path).keep([wanted(4, instances=7)])
    assert "older than its copy" in ledger(tmp_path).keep([wanted(generation, instances=2)])
    assert ledger(tmp_path).declarations()[0].spec.instances == 7


def test_a_store_that_does_not_know_a_set_that_has_a_copy_is_found_out(tmp_path: Path) -> None:
    ledger(tmp_path).keep([wanted()])
    assert "does not know set 'web'" in ledger(tmp_path).keep([])
    ledger(tmp_path).forget("web")
    assert ledger(tmp_path).keep([]) == ""


def test_a_damaged_copy_is_written_again_from_the_store_and_named_where_there_is_none(tmp_path: Path) -> None:
    ledger(tmp_path).keep([wanted()])
    file = tmp_path / "declarations" / "web.json"
    file.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError) as error:
        ledger(tmp_path).declarations()
    assert "web.json is damaged" in error.value.message
    assert "understudy adopt FILE" in error.value.fix
    assert ledger(tmp_path).keep([wanted()]) == ""
    assert ledger(tmp_path).declarations() == (Declaration.of(wanted()),)


def test_what_a_killed_controller_left_of_a_copy_is_gone_with_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "declarations"
    folder.mkdir()
    (folder / ".web.json.partial").write_bytes(b'{"spec": {"na')
    assert ledger(tmp_path).keep([make_set()]) == ""
    assert [file.name for file in folder.iterdir()] == ["web.json"]


def test_a_copy_that_another_controller_removed_is_written_again(tmp_path: Path) -> None:
    kept = ledger(tmp_path)
    kept.keep([wanted()])
    ledger(tmp_path).forget("web")
    assert kept.keep([wanted(2)]) == ""
    assert ledger(tmp_path).declarations() != ()


def test_descriptions_of_images_are_kept_until_the_image_is_removed(tmp_path: Path) -> None:
    kept = ledger(tmp_path)
    first, second = make_image(), replace(make_image(), version=2, digest="e5" * 32)
    kept.keep_images([first, second], {"micro": 2})
    kept.keep_images([second], {"micro": 1})
    assert set(ledger(tmp_path).images()) == {first, second}
    kept.forget_image(first)
    assert ledger(tmp_path).images() == (second,)
    kept.forget_image(second)
    assert ledger(tmp_path).given_versions() == {"micro": 2}


def test_no_effect_comes_before_the_copy_of_its_wish(tmp_path: Path) -> None:
    with open_site(tmp_path / "site") as site:
        file = tmp_path / "declarations"
        file.write_text("in the way", encoding="utf-8")
        site.ledger = ledger(tmp_path)
        site.apply(instances=1)
        with pytest.raises(StoreError, match="cannot keep"):
            site.controller.turn()
        assert site.store.snapshot().members == ()
        file.unlink()
        site.settle()
        assert site.ledger.declarations()[0].spec.instances == 1
        site.store.mark_deleting("web")
        site.turn_until(lambda: site.store.find_set("web") is None)
        assert site.ledger.declarations() == ()


def test_a_controller_whose_store_was_taken_away_ends(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        site.apply(instances=1)
        site.settle()
        (tmp_path / "store.sqlite").rename(tmp_path / "aside.sqlite")
        with pytest.raises(StoreLost, match="is gone"):
            site.controller.run()
        site.controller.stop()
        (tmp_path / "aside.sqlite").rename(tmp_path / "store.sqlite")
        assert len(site.host.machines) == 1
