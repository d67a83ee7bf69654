"""Names derived from names."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models import naming
from tests.unit.examples import many

members = st.from_regex(r"[a-z][a-z0-9-]{0,20}-[a-z0-9]{5}", fullmatch=True)


@many
@given(members, st.integers(1, 100))
def test_every_volume_of_a_machine_begins_with_its_domain_and_a_dot(member: str, body: int) -> None:
    domain = naming.domain_name("understudy", member)
    for name in (naming.overlay_volume, naming.seed_volume, naming.console_log):
        assert name(domain, body).startswith(f"{domain}.{body}.")


@many
@given(members, members)
def test_no_machine_owns_the_volumes_of_another(one: str, other: str) -> None:
    """Volumes are removed by the prefix `domain.`."""
    if one != other:
        mine = naming.domain_name("understudy", one)
        theirs = naming.overlay_volume(naming.domain_name("understudy", other), 1)
        assert not theirs.startswith(f"{mine}.")


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ("web-4tz9k", "web-4tz9k"),
        ("frontends-4tz9k", "frontends-4tz9k"),
        ("frontends1-4tz9k", "frontends-4tz9k"),
        ("web-serv-farm-4tz9k", "web-serv-4tz9k"),
        ("a-b-c-d-e-f-4tz9k", "a-b-c-d-e-4tz9k"),
    ],
)
def test_a_computer_name_keeps_what_tells_machines_apart(member: str, name: str) -> None:
    assert naming.windows_computer_name(member) == name


@many
@given(members)
def test_a_computer_name_is_one_that_netbios_can_hold(member: str) -> None:
    name = naming.windows_computer_name(member)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 15
    assert name.endswith(member[-6:])


@many
@given(members, st.integers(1, 50))
def test_a_body_has_one_uuid_and_the_next_body_another(member: str, body: int) -> None:
    uuid = naming.machine_uuid("site", member, body)
    assert uuid == naming.machine_uuid("site", member, body)
    assert uuid != naming.machine_uuid("site", member, body + 1)
    assert uuid != naming.machine_uuid("elsewhere", member, body)


@many
@given(members)
def test_a_mac_is_in_the_block_of_qemu_and_stays(member: str) -> None:
    mac = naming.machine_mac("site", member)
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac)
    assert mac == naming.machine_mac("site", member)


@pytest.mark.parametrize(
    ("address", "port", "reached"),
    [
        ("127.77.0.2", 80, 20080),
        ("127.77.0.2", 22, 20022),
        ("127.77.0.2", 1023, 21023),
        ("127.77.0.2", 1024, 1024),
        ("127.77.0.2", 8080, 8080),
        ("192.168.122.7", 80, 80),
        ("10.127.0.1", 22, 22),
    ],
)
def test_only_privileged_ports_of_loopback_addresses_are_shifted(address: str, port: int, reached: int) -> None:
    assert naming.reachable_port(address, port) == reached


@many
@given(st.integers(1, 65535))
def test_a_reachable_port_is_a_port_qemu_may_listen_on(port: int) -> None:
    reached = naming.reachable_port(str(ipaddress.ip_address("127.77.0.2")), port)
    assert 1024 <= reached <= 65535


def test_set_and_endpoint_cannot_be_confused_in_a_backends_name() -> None:
    assert naming.backend_name("web", "http") == "web.http"
    assert naming.backend_name("web-a", "b") != naming.backend_name("web", "a-b")
