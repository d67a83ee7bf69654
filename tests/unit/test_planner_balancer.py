"""Phases of members -> servers behind endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models.balancing import BalancerConfig, Frontend, HealthCheck, Server
from orchestrator.models.members import Phase, Request, Role
from orchestrator.models.sightings import BalancerSighting, HostSighting, Power, Rotation
from orchestrator.models.steps import ConvergeBalancer, ForgetSet, Step
from orchestrator.planner import plan
from orchestrator.planner.balancer import desired_balancer, rotation_of
from tests.builders import (
    NOW,
    make_member,
    make_members,
    make_set,
    make_spec,
    see_host,
    see_machine,
    see_world,
    wish,
)

WEB = make_set()
RUNNING_POOL = make_set(make_spec(standby={"state": "running", "max_ready": 4}))
STOPPED_POOL = make_set(make_spec(standby={"state": "stopped", "max_ready": 4}))
OFF = (Power.STOPPED, Power.CRASHED, Power.ABSENT)


def rotation(power: Power = Power.RUNNING, **fields: Any) -> Rotation | None:
    return rotation_of(make_member(WEB, **fields), WEB, power)


@pytest.mark.parametrize("power", [Power.RUNNING, Power.UNKNOWN])
def test_an_instance_in_service_is_in_rotation_even_if_its_host_is_silent(power: Power) -> None:
    assert rotation(power) is Rotation.READY


@pytest.mark.parametrize("power", OFF)
def test_an_instance_that_is_seen_off_leaves_rotation_at_once(power: Power) -> None:
    assert rotation(power) is Rotation.MAINT


def test_a_ready_instance_enters_rotation() -> None:
    assert rotation(phase=Phase.READY) is Rotation.READY


def test_a_ready_instance_that_is_to_go_does_not_enter_rotation() -> None:
    assert rotation(phase=Phase.READY, request=Request.REMOVE) is None


@pytest.mark.parametrize("power", [Power.RUNNING, Power.UNKNOWN])
def test_a_draining_instance_keeps_its_sessions(power: Power) -> None:
    assert rotation(power, phase=Phase.DRAINING) is Rotation.DRAIN


@pytest.mark.parametrize("power", OFF)
def test_a_draining_instance_that_is_off_is_taken_out(power: Power) -> None:
    assert rotation(power, phase=Phase.DRAINING) is None


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.PROVISIONING, Phase.DELETING, Phase.FAILED])
def test_what_is_not_there_yet_or_any_more_is_not_behind_the_balancer(phase: Phase) -> None:
    assert rotation(phase=phase) is None


def test_a_member_being_started_is_there_in_maintenance() -> None:
    assert rotation(phase=Phase.STARTING) is Rotation.MAINT


def test_members_of_a_running_pool_are_there_in_maintenance_so_that_a_claim_is_one_command() -> None:
    spare = make_member(RUNNING_POOL, role=Role.STANDBY, phase=Phase.STANDBY)
    assert rotation_of(spare, RUNNING_POOL, Power.RUNNING) is Rotation.MAINT


def test_members_of_a_stopped_pool_are_not_behind_the_balancer() -> None:
    spare = make_member(STOPPED_POOL, role=Role.STANDBY, phase=Phase.STANDBY)
    assert rotation_of(spare, STOPPED_POOL, Power.STOPPED) is None


@pytest.mark.parametrize("phase", [Phase.READY, Phase.STANDBY, Phase.PARKING, Phase.STARTING])
def test_no_pool_member_ever_takes_traffic(phase: Phase) -> None:
    for wanted in (RUNNING_POOL, STOPPED_POOL):
        for power in Power:
            spare = make_member(wanted, role=Role.STANDBY, phase=phase)
            assert rotation_of(spare, wanted, power) is not Rotation.READY


# ---- the whole configuration ---------------------------------------------------------------------------------


def test_every_endpoint_is_a_frontend_with_its_servers_sorted_by_name() -> None:
    endpoints = [
        {"name": "https", "protocol": "tcp", "address": "127.0.0.9", "listen": 8443, "port": 443},
        {"name": "admin", "listen": 9000, "port": 9000},
    ]
    wanted = make_set(make_spec(endpoints=endpoints))
    members = make_members(wanted, 2)
    observed = see_world(see_host(*(see_machine(one) for one in members)))
    config = desired_balancer(wish(wanted, members=members[::-1]), observed)
    assert config == BalancerConfig(
        (
            Frontend(
                "web.admin",
                "http",
                "127.0.0.1",
                9000,
                HealthCheck(),
                (
                    Server("web-00001", "127.77.0.3", 9000, Rotation.READY),
                    Server("web-00002", "127.77.0.4", 9000, Rotation.READY),
                ),
            ),
            Frontend(
                "web.https",
                "tcp",
                "127.0.0.9",
                8443,
                HealthCheck(),
                (
                    # QEMU may not listen below 1024, so the guest's 443 is reached shifted.
                    Server("web-00001", "127.77.0.3", 20443, Rotation.READY),
                    Server("web-00002", "127.77.0.4", 20443, Rotation.READY),
                ),
            ),
        )
    )


@pytest.mark.parametrize(
    ("readiness", "check"),
    [
        ([], HealthCheck()),
        (
            [{"http": {"port": 80, "path": "/up", "status": 204}, "interval": "2s", "failures": 5}],
            HealthCheck("/up", 204, 2.0, 5),
        ),
        ([{"tcp": {"port": 80}, "interval": "250ms"}], HealthCheck("", 200, 0.25, 3)),
        ([{"http": {"port": 81, "path": "/other"}}], HealthCheck()),
        ([{"command": "true"}, {"http": {"port": 80, "path": "/up"}}], HealthCheck("/up")),
    ],
)
def test_the_balancer_asks_what_readiness_asks_on_that_port(
    readiness: list[dict[str, Any]], check: HealthCheck
) -> None:
    wanted = make_set(make_spec(readiness=readiness))
    (front,) = desired_balancer(wish(wanted), see_world()).frontends
    assert front.check == check


def test_a_deleted_set_keeps_its_frontend_until_its_last_member_is_gone() -> None:
    leaving = make_set(deleting=True)
    observed = see_world(see_host())
    assert len(desired_balancer(wish(leaving, members=make_members(leaving, 1)), observed).frontends) == 1
    assert desired_balancer(wish(leaving), observed).frontends == ()


def balancer_steps(seen: BalancerSighting, wanted_instances: int = 0) -> list[ConvergeBalancer]:
    wanted = make_set(make_spec(instances=wanted_instances))
    steps = plan(wish(wanted), see_world(see_host(), balancer=seen), {}, NOW).steps
    return [step for step in steps if isinstance(step, ConvergeBalancer)]


def test_a_balancer_that_is_as_it_should_be_is_left_alone() -> None:
    config = desired_balancer(wish(make_set(make_spec(instances=0))), see_world(see_host()))
    assert balancer_steps(BalancerSighting(True, config.digest(), {})) == []


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (BalancerSighting(running=False), "the load balancer is not running"),
        (
            BalancerSighting(True, "0" * 12),
            "the load balancer differs from what should be in rotation",
        ),
    ],
)
def test_a_balancer_that_is_off_or_differs_is_converged(seen: BalancerSighting, reason: str) -> None:
    (step,) = balancer_steps(seen)
    assert step.reason == reason


def test_a_balancer_that_nobody_needs_is_stopped() -> None:
    made = plan(wish(), see_world(see_host(), balancer=BalancerSighting(True, "some")), {}, NOW)
    (step,) = made.steps
    assert isinstance(step, ConvergeBalancer)
    assert step.config == BalancerConfig()
    assert plan(wish(), see_world(see_host()), {}, NOW).steps == ()


def test_an_instance_on_a_silent_host_stays_in_the_configuration() -> None:
    wanted = make_set(make_spec(instances=1))
    members = make_members(wanted, 1)
    observed = see_world(HostSighting("local", "a", answers=False))
    (front,) = desired_balancer(wish(wanted, members=members), observed).frontends
    assert [server.state for server in front.servers] == [Rotation.READY]


def test_equal_configurations_have_equal_digests_and_others_do_not() -> None:
    servers = (Server("web-1", "127.77.0.2", 80, Rotation.READY),)
    front = Frontend("web.http", "http", "127.0.0.1", 8080, HealthCheck(), servers)
    twin = Frontend("web.http", "http", "127.0.0.1", 8080, HealthCheck(), tuple(servers))
    drained = (Server("web-1", "127.77.0.2", 80, Rotation.DRAIN),)
    other = Frontend("web.http", "http", "127.0.0.1", 8080, HealthCheck(), drained)
    assert BalancerConfig((front,)).digest() == BalancerConfig((twin,)).digest()
    assert BalancerConfig((front,)).digest() != BalancerConfig((other,)).digest()
    assert len(BalancerConfig().digest()) == 12


# ---- the end of a set ----------------------------------------------------------------------------------------


def steps_at_its_end(balancer: BalancerSighting) -> set[type[Step]]:
    """Of a set whose last member is gone."""
    gone = make_set(deleting=True, generation=2)
    return {type(step) for step in plan(wish(gone), see_world(see_host(), balancer=balancer), {}, NOW).steps}


def test_a_deleted_set_is_forgotten_only_when_the_load_balancer_serves_it_no_more() -> None:
    assert steps_at_its_end(BalancerSighting(True, "serving it")) == {ConvergeBalancer}
    assert steps_at_its_end(BalancerSighting(running=False)) == {ForgetSet}


def test_a_load_balancer_that_cannot_be_changed_keeps_no_set_from_being_forgotten() -> None:
    seen = BalancerSighting(True, "serving it", trouble="HAProxy is not installed")
    assert ForgetSet in steps_at_its_end(seen)
