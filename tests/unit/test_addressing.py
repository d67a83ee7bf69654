"""Which addresses are allotted, and what a machine is told about its network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.apply.addressing import network_addressing, user_addressing
from orchestrator.errors import SpecError
from orchestrator.models.machine import Nic, Subnet
from orchestrator.render.seed import GuestNetwork
from tests.builders import make_member, make_spec

LAN = Subnet("192.168.122.0/24", "192.168.122.1", ("192.168.122.1",), ("192.168.122.1", "192.168.122.5"))


def first(addresses: object, count: int) -> list[str]:
    assert hasattr(addresses, "__iter__")
    found = [str(address) for _, address in zip(range(count), addresses, strict=False)]
    return found


def test_loopback_addresses_are_given_out_from_the_second_on() -> None:
    assert first(user_addressing("127.77.0.0/16", False).candidates(), 3) == [
        "127.77.0.2",
        "127.77.0.3",
        "127.77.0.4",
    ]


def test_a_small_range_ends_before_its_broadcast_address() -> None:
    assert first(user_addressing("127.77.0.0/29", False).candidates(), 99) == [
        f"127.77.0.{number}" for number in range(2, 7)
    ]


@pytest.mark.parametrize("range_", ["10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0", "126.0.0.0/7"])
def test_user_mode_needs_loopback_addresses(range_: str) -> None:
    with pytest.raises(SpecError, match=r"is not within 127.0.0.0/8") as error:
        user_addressing(range_, False)
    assert "config.toml" in error.value.fix


def test_reserved_addresses_of_a_network_are_not_given_out() -> None:
    addresses = first(network_addressing("default", LAN, "").candidates(), 6)
    assert addresses == [f"192.168.122.{number}" for number in (2, 3, 4, 6, 7, 8)]


def test_addresses_that_dhcp_leases_to_anybody_are_given_out_last() -> None:
    lan = replace(LAN, cidr="192.168.122.0/29", dynamic=(("192.168.122.2", "192.168.122.4"),))
    addresses = first(network_addressing("default", lan, "").candidates(), 9)
    assert addresses == [f"192.168.122.{number}" for number in (6, 2, 3, 4)]


@pytest.mark.parametrize("range_", ["127.77.0.0/16", "127.77.0.0/24", "127.77.0.0/29", "127.77.0.0/30"])
def test_the_capacity_of_a_range_is_the_number_of_its_addresses(range_: str) -> None:
    addressing = user_addressing(range_, False)
    assert addressing.capacity() == len(list(addressing.candidates()))


def test_the_capacity_of_a_network_leaves_out_what_is_reserved() -> None:
    addressing = network_addressing("default", LAN, "192.168.122.0/28")
    assert addressing.capacity() == len(list(addressing.candidates())) == 14 - 1 - 1


def test_a_range_within_the_network_can_be_chosen() -> None:
    addressing = network_addressing("default", LAN, "192.168.122.128/25")
    assert first(addressing.candidates(), 1) == ["192.168.122.130"]


def test_a_range_outside_the_network_is_refused() -> None:
    with pytest.raises(SpecError, match=r"is not within 192.168.122.0/24"):
        network_addressing("default", LAN, "192.168.123.0/24")


def test_in_user_mode_every_declared_port_is_forwarded_from_the_members_address() -> None:
    member = make_member(address="127.77.0.9")
    nic = user_addressing("127.77.0.0/16", outbound=True).nic(member, make_spec())
    assert nic == Nic(member.mac, "127.77.0.9", forwards=((20022, 22), (20080, 80)), outbound=True)


def test_in_network_mode_nothing_is_forwarded() -> None:
    member = make_member(address="192.168.122.9")
    nic = network_addressing("default", LAN, "").nic(member, make_spec())
    assert nic == Nic(member.mac, "192.168.122.9", network="default")
    filtered = replace(network_addressing("default", LAN, ""), filter="clean-traffic")
    assert filtered.nic(member, make_spec()) == replace(nic, filter="clean-traffic")


def test_a_guest_on_a_network_is_told_its_real_address() -> None:
    member = make_member(address="192.168.122.9")
    told = network_addressing("default", LAN, "").guest_network(member)
    assert told == GuestNetwork(member.mac, "192.168.122.9/24", "192.168.122.1", ("192.168.122.1",))


@pytest.mark.parametrize(("outbound", "gateway", "servers"), [(True, "10.0.2.2", ("10.0.2.3",)), (False, "", ())])
def test_a_guest_in_user_mode_is_told_qemus_addresses(
    outbound: bool, gateway: str, servers: tuple[str, ...]
) -> None:
    member = make_member()
    told = user_addressing("127.77.0.0/16", outbound).guest_network(member)
    assert told == GuestNetwork(member.mac, "10.0.2.15/24", gateway, servers)


def test_reservations_of_our_own_machines_are_ours_to_give_out_again() -> None:
    ours = [f"192.168.122.{number}" for number in range(2, 8)]
    subnet = Subnet("192.168.122.0/28", "192.168.122.1", (), ("192.168.122.1", "192.168.122.9", *ours))
    addressing = network_addressing("default", subnet, "", ours)
    assert set(ours) <= set(addressing.candidates())
    assert "192.168.122.9" not in set(addressing.candidates())
    assert addressing.capacity() == 14 - 2
