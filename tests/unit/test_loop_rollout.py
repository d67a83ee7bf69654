"""A changed model through the loop, with a real store: what is replaced, what is not, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.members import Phase, Role, RolloutLevel
from orchestrator.models.naming import domain_name
from orchestrator.service import declare
from orchestrator.service import members as requests
from tests.builders import PREFIX, make_image
from tests.fakes import GuestWithFailingSetup, image_file
from tests.unit.loop import Site, open_site

NEW: dict[str, Any] = {"setup": {"user_data": {"motd": "second edition"}}}
POOL = {"state": "stopped", "max_ready": 4}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as made:
        yield made


def models(site: Site) -> set[str]:
    return {one.model for one in site.members()}


def test_pool_and_instances_are_replaced_and_rotation_is_never_below_what_is_declared(site: Site) -> None:
    site.apply(instances=3, standby=POOL)
    site.settle()
    before = site.names()
    site.apply(instances=3, standby=POOL, **NEW)
    fewest, most = 3, 3

    def is_done() -> bool:
        nonlocal fewest, most
        fewest = min(fewest, len(site.rotation()))
        most = max(most, sum(not one.is_leaving for one in site.instances()))
        return site.is_settled("web")

    site.turn_until(is_done, "the rollout ends")
    assert (fewest, most) == (3, 4)
    assert models(site) == {site.wanted().model}
    assert not before & site.names()
    assert (len(site.instances()), len(site.pool())) == (3, 1)
    assert site.rotation() == site.names(Role.INSTANCE)
    assert site.events("rollout_started", "rollout_done") == [
        "rolling out a new model to web, image micro:1: 3 in the set and 1 in reserve are of an older one; "
        "at most 4 instances, at least 3 in service",
        "3 instances of web are of the new model, image micro:1",
    ]
    kinds = [event.kind for event in site.store.list_events("web")]
    replaced = [reason for reason in site.events("retired") if reason.startswith("replacing ")]
    assert sorted(replaced) == sorted(
        f"replacing {name} of an older model" for name in before if name in _set(site)
    )
    assert kinds.index("rollout_started") < kinds.index("claim_served") < kinds.index("rollout_done")


def _set(site: Site) -> set[str]:
    """Members that were in service at some time."""
    return {event.member for event in site.store.list_events("web") if event.kind == "in_service"}


@pytest.mark.parametrize(
    "change",
    [
        {"instances": 3},
        {"standby": {"state": "running", "max_ready": 4}},
        {"endpoints": [{"name": "http", "listen": 8081, "port": 80}]},
        {"scale_in": {"policy": "oldest", "drain_timeout": "1s"}},
        {"readiness": [{"tcp": {"port": 80}}]},
        {"update": {"max_surge": 3, "max_unavailable": 1}},
    ],
    ids=["instances", "pool state", "endpoint", "policy", "readiness", "update"],
)
def test_what_needs_no_new_machine_restarts_nothing(site: Site, change: dict[str, Any]) -> None:
    site.apply(instances=2, standby=POOL)
    site.settle()
    bodies = {(one.name, one.incarnation) for one in site.members()}
    site.apply(**{"instances": 2, "standby": POOL, **change})
    site.settle()
    assert bodies <= {(one.name, one.incarnation) for one in site.members()}
    assert site.events("rollout_started") == []


def test_a_newer_image_version_is_rolled_out_when_the_file_is_applied_again_and_not_by_scaling(site: Site) -> None:
    site.apply(instances=1)
    site.settle()
    before = site.only()
    digest = before.image_digest
    _, newer = image_file(site.folder, b"a newer base disk")
    site.store.add_image("micro", lambda version: make_image(digest=newer, version=version))
    site.scale(2)
    site.settle()
    assert {one.image_digest for one in site.members()} == {digest}
    site.apply(instances=2)
    site.settle()
    assert site.wanted().image.ref == "micro:2"
    assert {one.image_digest for one in site.members()} == {newer}
    assert site.events("rollout_done") == ["2 instances of web are of the new model, image micro:2"]


def failing(tmp_path: Path) -> Any:
    class FailsLater(GuestWithFailingSetup):
        failures = 0

    return open_site(tmp_path, make_guest=FailsLater)


def test_a_new_model_that_fails_twice_stops_and_the_old_file_goes_back_at_once(tmp_path: Path) -> None:
    with failing(tmp_path) as site:
        site.apply(instances=2)
        site.settle()
        before = site.names()
        site.guest.failures = 100
        site.apply(instances=2, **NEW)
        site.turn_until(lambda: any(one.failures == 1 for one in site.members()), "the first failure")
        for _ in range(5):
            site.controller.turn()
        assert not site.is_settled("web")
        site.clock.advance(30)
        stuck = site.settle_stuck()
        assert "the rollout of web is stopped" in stuck
        assert "apply the file of before" in stuck
        assert site.wanted().rollout.level is RolloutLevel.STOPPED
        (told,) = site.events("rollout_stopped")
        assert "no package named wbe" in told
        assert "\n" not in told
        assert site.rotation() == before
        site.apply(instances=2)
        site.settle()
        assert site.names() == before
        assert {one.incarnation for one in site.members()} == {1}
        assert site.wanted().rollout.level is RolloutLevel.NONE
        assert site.events("rollout_done") == ["2 instances of web are of the model of before, image micro:1"]


def test_applying_again_tries_a_stopped_rollout_again_and_it_goes_on(tmp_path: Path) -> None:
    with failing(tmp_path) as site:
        site.apply(instances=2)
        site.settle()
        site.guest.failures = 2
        site.apply(instances=2, **NEW)
        site.turn_until(lambda: any(one.failures == 1 for one in site.members()), "the first failure")
        site.clock.advance(30)
        site.settle_stuck()
        site.apply(instances=2, **NEW)
        site.settle()
        assert models(site) == {site.wanted().model}
        assert len(site.events("rollout_stopped")) == len(site.events("rollout_resumed")) == 1


def test_a_pool_whose_new_members_fail_stops_the_rollout_before_any_instance_is_touched(tmp_path: Path) -> None:
    with failing(tmp_path) as site:
        site.apply(instances=2, standby={"state": "stopped", "max_ready": 3})
        site.settle()
        before = site.names(Role.INSTANCE)
        site.guest.failures = 100
        site.apply(instances=2, standby={"state": "stopped", "max_ready": 3}, **NEW)
        site.turn_until(lambda: any(one.failures == 1 for one in site.members()), "the first failure")
        site.clock.advance(30)
        site.settle_stuck()
        assert site.names(Role.INSTANCE) == site.rotation() == before


def test_scaling_deleting_and_crashes_during_a_rollout_converge(site: Site) -> None:
    site.apply(instances=3)
    site.settle()
    site.apply(instances=3, **NEW)
    site.turn_until(lambda: len(site.instances()) == 4, "the first new one")
    site.scale(5)
    victim = min(one.name for one in site.instances())
    site.host.kill(domain_name(PREFIX, victim))
    site.settle()
    assert (len(site.rotation()), models(site)) == (5, {site.wanted().model})
    site.apply(instances=5)
    site.turn_until(lambda: len(site.instances()) == 6, "the first one on the way back")
    site.scale(1)
    site.settle()
    assert (len(site.rotation()), models(site)) == (1, {site.wanted().model})
    site.apply(instances=1, **NEW)
    site.turn_until(lambda: len(site.instances()) == 2, "the new one")
    declare.delete(site.store, "web")
    site.turn_until(lambda: site.store.find_set("web") is None, "it is gone")
    assert not site.host.observe().machines


def test_a_controller_that_crashes_in_a_rollout_tells_nothing_twice(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    site.apply(instances=2, **NEW)
    for _ in range(6):
        site.controller.turn()
        site.crash()
    site.settle()
    assert len(site.events("rollout_started")) == len(site.events("rollout_done")) == 1


def test_a_stopped_instance_is_replaced_only_after_it_is_started(site: Site) -> None:
    site.apply(instances=2)
    site.settle()
    name = min(site.names())
    requests.stop(site.store, f"web/{name}")
    site.settle()
    site.apply(instances=2, **NEW)
    site.settle()
    assert site.phase(name) is Phase.STOPPED
    assert site.member(name).model != site.wanted().model
    requests.start(site.store, f"web/{name}")
    site.settle()
    assert models(site) == {site.wanted().model}
    assert len(site.rotation()) == 2
