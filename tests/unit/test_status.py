"""What `status --json` says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.models.members import (
    Member,
    Phase,
    PoolCondition,
    PoolLevel,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.sightings import BalancerSighting, HostSighting, Observed, Power, Rotation
from orchestrator.models.storage import Drive
from orchestrator.planner.balancer import desired_balancer
from orchestrator.service.status import pool_state_of, set_status
from tests.builders import (
    NOW,
    make_member,
    make_members,
    make_set,
    make_spec,
    see_host,
    see_machine,
    see_server,
    see_world,
    wish,
)

POOLED = make_set(
    make_spec(instances=2, standby={"state": "stopped", "max_ready": 4, "min_ready": 1}), settled_generation=1
)
SERVING = make_members(POOLED, 2)
SPARES = make_members(POOLED, 2, first=101, role=Role.STANDBY, phase=Phase.STANDBY)


def observe(wanted: ScaleSet, members: list[Member], **powers: Power) -> Observed:
    parked = Power(wanted.pool_state.value)
    machines = [
        see_machine(one, powers.get(one.name[4:], parked if one.phase is Phase.STANDBY else Power.RUNNING))
        for one in members
        if one.phase is not Phase.CREATING
    ]
    bare = see_world(see_host(*machines))
    config = desired_balancer(wish(wanted, members=members), bare)
    servers = {key: see_server(state) for key, state in config.server_states().items()}
    return replace(bare, balancer=BalancerSighting(True, config.digest(), servers))


def status(wanted: ScaleSet, members: list[Member], observed: Observed | None = None) -> dict[str, Any]:
    seen = observed or observe(wanted, members)
    return set_status(wanted, wish(wanted, members=members), seen, NOW)


def test_a_set_as_declared_has_the_published_shape() -> None:
    said = status(POOLED, [*SERVING, *SPARES])
    assert json.loads(json.dumps(said)) == said
    assert {key: said[key] for key in ("name", "image", "newer_image", "converged", "deleting", "reason")} == {
        "name": "web",
        "image": "micro:1",
        "newer_image": None,
        "converged": True,
        "deleting": False,
        "reason": "",
    }
    assert said["instances"] == {"desired": 2, "in_service": 2}
    assert said["endpoints"] == [{"name": "http", "address": "127.0.0.1", "port": 8080}]
    assert said["standby"] == {
        "state": "stopped",
        "max_ready": 4,
        "min_ready": 1,
        "target": 2,
        "ready": 2,
        "health": "healthy",
        "reason": "",
        "states": {"stopped": 2},
        "zones": {"a": {"stopped": 2}},
    }


def test_a_member_has_the_published_shape() -> None:
    row = status(POOLED, [*SERVING, *SPARES])["members"][0]
    published = {
        "name": "web-00001",
        "role": "instance",
        "phase": "in_service",
        "power": "running",
        "zone": "a",
        "host": "local",
        "address": "127.77.0.3",
        "domain": "understudy-web-00001",
        "incarnation": 1,
        "forked": False,
        "model": POOLED.model,
        "in_rotation": True,
        "reason": "web-00001 is here",
    }
    assert {key: row[key] for key in published} == published


@pytest.mark.parametrize(
    ("power", "said"),
    [
        (Power.RUNNING, "running"),
        (Power.STOPPED, "stopped"),
        (Power.CRASHED, "stopped"),
        (Power.ABSENT, "stopped"),
        (Power.UNKNOWN, "unknown"),
    ],
)
def test_power_is_told_in_the_published_words(power: Power, said: str) -> None:
    member = make_member(POOLED)
    host = see_host(see_machine(member, power))
    if power is Power.ABSENT:
        host = see_host()
    if power is Power.UNKNOWN:
        host = HostSighting("local", "a", answers=False)
    assert status(POOLED, [member], see_world(host))["members"][0]["power"] == said


@pytest.mark.parametrize(
    ("state", "is_up", "in_rotation"),
    [
        (Rotation.READY, True, True),
        (Rotation.READY, False, False),
        (Rotation.DRAIN, True, False),
        (Rotation.MAINT, True, False),
    ],
)
def test_in_rotation_means_that_it_gets_requests(state: Rotation, is_up: bool, in_rotation: bool) -> None:
    member = make_member(POOLED)
    server = see_server(state, is_up=is_up)
    balancer = BalancerSighting(True, "x", {("web.http", member.name): server})
    seen = see_world(see_host(see_machine(member)), balancer=balancer)
    assert status(POOLED, [member], seen)["members"][0]["in_rotation"] is in_rotation


def test_a_set_with_work_left_is_not_converged() -> None:
    missing = status(POOLED, SERVING)
    assert missing["converged"] is False
    killed = status(POOLED, [*SERVING, *SPARES], observe(POOLED, [*SERVING, *SPARES], **{"00001": Power.CRASHED}))
    assert killed["converged"] is False


def test_a_wish_that_nobody_looked_at_yet_is_not_converged() -> None:
    fresh = replace(POOLED, generation=2)
    assert status(fresh, [*SERVING, *SPARES])["converged"] is False


def test_a_set_that_is_stuck_says_why() -> None:
    stuck = replace(POOLED, stuck="no host answers")
    said = status(stuck, [*SERVING, *SPARES])
    assert (said["converged"], said["reason"]) == (False, "no host answers")


def test_an_instance_that_is_held_out_of_rotation_is_unhealthy_and_its_set_degraded() -> None:
    wanted = make_set()
    held = make_member(wanted, phase=Phase.STARTING, unhealthy_since=NOW, reason="it loops\nconsole of web: ...")
    for failures in (0, 2):
        told = status(wanted, [replace(held, failures=failures)])
        assert (told["health"], told["health_reason"]) == ("degraded", "web-00001 is unhealthy: it loops")


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.PROVISIONING, Phase.STARTING])
def test_what_is_tried_again_after_a_failure_is_not_well_and_its_cause_stays(phase: Phase) -> None:
    wanted = make_set(make_spec(instances=1))
    again = make_member(wanted, phase=phase, failures=1, last_failure="exit 7\nconsole", reason="created: done")
    told = status(wanted, [again])
    assert (told["health"], told["health_reason"]) == ("degraded", "web-00001 is failed: exit 7")
    (row,) = told["members"]
    assert (row["health"], row["last_failure"]) == ("failed", "exit 7\nconsole")
    for well in (replace(again, failures=0, last_failure=""), replace(again, phase=Phase.IN_SERVICE)):
        assert status(wanted, [well])["health"] == "healthy"


def test_a_set_without_a_pool_says_so() -> None:
    bare = make_set(settled_generation=1)
    assert status(bare, make_members(bare, 2))["standby"] is None


def test_a_member_of_an_older_model_or_in_another_power_state_is_not_ready() -> None:
    old = replace(SPARES[0], model="old")
    said = status(POOLED, [*SERVING, old, SPARES[1]])
    assert (said["standby"]["ready"], said["members"][2]["stale"]) == (1, True)
    running = observe(POOLED, [*SERVING, *SPARES], **{"00101": Power.RUNNING})
    assert status(POOLED, [*SERVING, *SPARES], running)["standby"]["ready"] == 1


def test_a_pool_whose_members_keep_failing_is_degraded_with_the_first_line_of_its_reason() -> None:
    failed = replace(SPARES[0], phase=Phase.FAILED, failures=3, reason="setup failed\nconsole of web: ...")
    said = status(POOLED, [*SERVING, failed, SPARES[1]])["standby"]
    assert (said["health"], said["reason"]) == ("degraded", "setup failed")
    again = replace(failed, phase=Phase.CREATING, last_failure="setup failed\nconsole", reason="creating it: done")
    degraded = replace(POOLED, pool=PoolCondition(PoolLevel.FILLING, is_degraded=True))
    said = status(degraded, [*SERVING, again, SPARES[1]])["standby"]
    assert (said["health"], said["reason"]) == ("degraded", "setup failed")


def test_without_a_rollout_every_instance_is_of_the_declared_model() -> None:
    said = status(POOLED, [*SERVING, *SPARES])["rollout"]
    assert said == {"state": "none", "updated": 2, "stale": 0, "reason": ""}


def test_a_rollout_is_shown_with_its_stage_and_is_not_converged() -> None:
    older = [replace(one, model="old") for one in SERVING]
    renewing = status(POOLED, [*older, replace(SPARES[0], model="old"), SPARES[1]])
    assert renewing["rollout"] == {"state": "pool", "updated": 0, "stale": 2, "reason": ""}
    replacing = status(POOLED, [SERVING[0], older[1], *SPARES])
    assert replacing["rollout"] == {"state": "rolling", "updated": 1, "stale": 1, "reason": ""}
    assert replacing["converged"] is False


def test_a_rollout_that_waits_is_paused_and_one_that_failed_is_stopped_each_with_its_reason() -> None:
    older = [replace(one, model="old") for one in SERVING]
    full = replace(POOLED, stuck="no host has 128 MiB of memory to give\nmore")
    paused = status(full, [*older, *SPARES])["rollout"]
    assert (paused["state"], paused["reason"]) == ("paused", "no host has 128 MiB of memory to give")
    failed = make_member(POOLED, "00009", phase=Phase.FAILED, failures=2, reason="setup failed\nconsole")
    stopped = status(full, [*older, failed, *SPARES])["rollout"]
    assert (stopped["state"], stopped["reason"]) == ("stopped", "web-00009 failed: setup failed")


def test_a_rollout_whose_last_machines_are_being_removed_is_not_converged() -> None:
    told = replace(POOLED, rollout=RolloutCondition(RolloutLevel.ON, POOLED.model))
    going = make_member(POOLED, "00009", model="old", phase=Phase.DELETING, request=Request.REMOVE)
    said = status(told, [*SERVING, *SPARES, going])
    assert (said["rollout"]["state"], said["converged"]) == ("rolling", False)


@pytest.mark.parametrize(
    ("phase", "power", "state"),
    [
        (Phase.CREATING, "stopped", "creating"),
        (Phase.PROVISIONING, "running", "creating"),
        (Phase.STARTING, "stopped", "starting"),
        (Phase.READY, "running", "running"),
        (Phase.PARKING, "running", "stopping"),
        (Phase.STANDBY, "running", "running"),
        (Phase.STANDBY, "stopped", "stopped"),
        (Phase.STANDBY, "unknown", "unknown"),
        (Phase.DELETING, "running", "deleting"),
        (Phase.FAILED, "stopped", "failed"),
    ],
)
def test_pool_members_are_counted_by_state(phase: Phase, power: str, state: str) -> None:
    assert pool_state_of({"phase": phase.value, "power": power}) == state


def test_the_pool_is_counted_by_zone() -> None:
    spares = [*SPARES, replace(SPARES[0], name="web-00109", zone="b", phase=Phase.CREATING)]
    assert status(POOLED, [*SERVING, *spares])["standby"]["zones"] == {"a": {"stopped": 2}, "b": {"creating": 1}}


def test_zones_tell_what_is_in_service_and_ready_and_the_even_share() -> None:
    spec = make_spec(instances=3, zones=["b", "a"], standby={"max_ready": 5})
    wanted = make_set(spec)
    members = [
        *make_members(wanted, 1, zone="b", host="two"),
        *make_members(wanted, 2, first=2, zone="a"),
        *make_members(wanted, 1, first=101, role=Role.STANDBY, phase=Phase.STANDBY, zone="a"),
        *make_members(wanted, 1, first=102, role=Role.STANDBY, phase=Phase.CREATING, zone="c"),
    ]
    seen = observe(wanted, members)
    two = see_host(name="two", zone="b")
    zones = status(wanted, members, replace(seen, hosts={**seen.hosts, "two": two}))["zones"]
    assert list(zones) == ["b", "a", "c"]
    assert zones["a"] == {
        "declared": True,
        "instances": {"desired": 2, "in_service": 2},
        "standby": {"target": 1, "ready": 1},
    }
    assert zones["b"]["instances"] == {"desired": 1, "in_service": 1}
    assert zones["b"]["standby"] == {"target": 1, "ready": 0}
    assert zones["c"] == {
        "declared": False,
        "instances": {"desired": 0, "in_service": 0},
        "standby": {"target": 0, "ready": 0},
    }


def test_without_declared_zones_those_of_all_hosts_are_told() -> None:
    seen = observe(POOLED, SERVING)
    other = see_host(name="two", zone="b", answers=False)
    zones = status(POOLED, SERVING, replace(seen, hosts={**seen.hosts, "two": other}))["zones"]
    assert {name: zone["instances"]["desired"] for name, zone in zones.items()} == {"a": 1, "b": 1}


def test_drives_are_listed_with_their_holders_and_only_those_of_the_set() -> None:
    drives = (
        Drive("other", "data", 0, "local", 2**30, None, NOW),
        Drive("web", "data", 0, "local", 2**30, SERVING[0].name, NOW),
        Drive("web", "data", 1, "b", 2**24, None, NOW, is_deleting=True),
    )
    desired = replace(wish(POOLED, members=SERVING), drives=drives)
    said = set_status(POOLED, desired, observe(POOLED, SERVING), NOW)["drives"]
    assert json.loads(json.dumps(said)) == said
    assert [
        (one["name"], one["slot"], one["size"], one["host"], one["member"], one["deleting"]) for one in said
    ] == [
        ("data", 0, 2**30, "local", SERVING[0].name, False),
        ("data", 1, 2**24, "b", None, True),
    ]
    assert said[0]["volume"] == "understudy-drive.web.data.0.qcow2"


def test_machines_of_other_sets_do_not_hide_what_is_missing_in_this_one() -> None:
    other = make_set(make_spec(name="api", instances=1, endpoints=[]), settled_generation=1)
    theirs = [make_member(other, "00001", address="127.77.3.2")]
    lacking = make_set(make_spec(instances=1, endpoints=[]), settled_generation=1)
    both = wish(lacking, other, members=theirs)
    seen = see_world(see_host(*(see_machine(one) for one in theirs)))
    assert set_status(other, both, seen, NOW)["converged"] is True
    assert set_status(lacking, both, seen, NOW)["converged"] is False


def test_nothing_is_converged_while_a_machine_is_there_that_the_store_does_not_know() -> None:
    stranger = make_member(POOLED, "00909")
    members = [*SERVING, *SPARES]
    seen = observe(POOLED, members)
    assert status(POOLED, members, seen)["converged"] is True
    host = seen.hosts["local"]
    machines = {**host.machines, see_machine(stranger).domain: see_machine(stranger)}
    strange = replace(seen, hosts={"local": replace(host, machines=machines)})
    assert status(POOLED, members, strange)["converged"] is False
