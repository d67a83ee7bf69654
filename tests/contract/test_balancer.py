"""One suite for the fake balancer and for HAProxy."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.resources import template
from orchestrator.drivers.haproxy import HaproxyBalancer
from orchestrator.errors import BalancerError
from orchestrator.models.balancing import BalancerConfig, Frontend, HealthCheck, Server
from orchestrator.models.sightings import Rotation
from orchestrator.ports.balancer import Balancer
from tests.fakes import FakeBalancer


@pytest.fixture(params=["fake", "haproxy"])
def balancer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balancer]:
    made: Balancer = FakeBalancer()
    if request.param == "haproxy":
        made = HaproxyBalancer(tmp_path, template("haproxy.cfg.j2"))
    yield made
    made.converge(BalancerConfig())


@pytest.fixture
def front() -> Frontend:
    address = f"127.{secrets.randbelow(90) + 10}.{secrets.randbelow(250)}.1"
    states = {"web-1": Rotation.READY, "web-2": Rotation.DRAIN, "web-3": Rotation.MAINT}
    servers = tuple(Server(name, address, 19000, state) for name, state in states.items())
    return Frontend("web.http", "tcp", address, 18090, HealthCheck(), servers)


def test_nothing_runs_at_first_and_nothing_wanted_is_fine(balancer: Balancer) -> None:
    assert not balancer.observe().running
    balancer.converge(BalancerConfig())
    assert not balancer.observe().running


def test_what_was_asked_for_is_what_is_seen(balancer: Balancer, front: Frontend) -> None:
    config = BalancerConfig((front,))
    balancer.converge(config)
    seen = balancer.observe()
    assert (seen.running, seen.digest) == (True, config.digest())
    assert {key: server.state for key, server in seen.servers.items()} == config.server_states()
    assert all(server.sessions == 0 for server in seen.servers.values())


def test_every_change_is_seen(balancer: Balancer, front: Frontend) -> None:
    balancer.converge(BalancerConfig((front,)))
    first, second, third = front.servers
    for servers in (
        (replace(first, state=Rotation.DRAIN), second),
        (second, third, replace(first, port=19001)),
        (),
        front.servers,
    ):
        config = BalancerConfig((replace(front, servers=servers),))
        balancer.converge(config)
        assert balancer.observe().digest == config.digest()
        assert set(balancer.observe().servers) == set(config.server_states())


def test_converging_twice_is_success(balancer: Balancer, front: Frontend) -> None:
    for _ in range(2):
        balancer.converge(BalancerConfig((front,)))
    assert balancer.observe().running


def test_a_port_of_our_own_counts_as_bindable(balancer: Balancer, front: Frontend) -> None:
    assert balancer.why_not_bindable(front.address, front.listen) == ""
    balancer.converge(BalancerConfig((front,)))
    assert balancer.why_not_bindable(front.address, front.listen) == ""


def test_a_taken_port_is_refused_with_a_reason(balancer: Balancer, front: Frontend) -> None:
    with socket.socket() as taken:
        taken.bind((front.address, front.listen))
        taken.listen()
        if isinstance(balancer, FakeBalancer):
            balancer.taken.add((front.address, front.listen))
        assert balancer.why_not_bindable(front.address, front.listen)
        with pytest.raises(BalancerError):
            balancer.converge(BalancerConfig((front,)))
    if isinstance(balancer, FakeBalancer):
        balancer.taken.clear()
    assert not balancer.observe().running
