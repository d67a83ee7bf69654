"""The guests' network of an installation: which addresses may be allotted, what a guest is told about it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from orchestrator.errors import SpecError
from orchestrator.models.machine import Nic, Subnet
from orchestrator.models.members import Member
from orchestrator.models.naming import reachable_port
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.render.seed import GuestNetwork

# QEMU's user network as a guest sees it (the same inside every guest: they do not see each other).
_USER_ADDRESS, _USER_GATEWAY, _USER_DNS = "10.0.2.15/24", "10.0.2.2", "10.0.2.3"


@dataclass(frozen=True)
class Addressing:
    """`subnet` None: user mode, a loopback address of `allotted` for each member; else a libvirt network, with
    `filter` on each card."""

    allotted: ipaddress.IPv4Network
    network: str = ""
    subnet: Subnet | None = None
    outbound: bool = False
    filter: str = ""

    def candidates(self) -> Iterable[str]:
        """Addresses in the order in which they are given out; the first one is kept free."""
        hosts = islice(self.allotted.hosts(), 1, None)
        if self.subnet is None:
            return (str(address) for address in hosts)
        free = [address for address in hosts if str(address) not in self.subnet.reserved]
        return (str(address) for address in sorted(free, key=self._is_dynamic))

    def _is_dynamic(self, address: ipaddress.IPv4Address) -> bool:
        ranges = self.subnet.dynamic if self.subnet else ()
        return any(ipaddress.IPv4Address(start) <= address <= ipaddress.IPv4Address(end) for start, end in ranges)

    def capacity(self) -> int:
        """How many addresses `candidates` has."""
        if self.subnet is None:
            return max(self.allotted.num_addresses - 3, 0)
        return sum(1 for _ in self.candidates())

    def nic(self, member: Member, spec: ScaleSetSpec) -> Nic:
        if self.subnet is not None:
            return Nic(member.mac, member.address, network=self.network, filter=self.filter)
        forwards = tuple((reachable_port(member.address, port), port) for port in spec.guest_ports())
        return Nic(member.mac, member.address, forwards=forwards, outbound=self.outbound)

    def guest_network(self, member: Member) -> GuestNetwork:
        if self.subnet is not None:
            prefix = ipaddress.IPv4Network(self.subnet.cidr).prefixlen
            return GuestNetwork(
                member.mac, f"{member.address}/{prefix}", self.subnet.gateway, self.subnet.nameservers
            )
        # Without a way out a name server would only cost time-outs.
        servers = (_USER_DNS,) if self.outbound else ()
        return GuestNetwork(member.mac, _USER_ADDRESS, _USER_GATEWAY if self.outbound else "", servers)


def user_addressing(allotted: str, outbound: bool) -> Addressing:
    """Raises SpecError if the range is not within 127.0.0.0/8."""
    network = ipaddress.IPv4Network(allotted)
    if not network.subnet_of(ipaddress.IPv4Network("127.0.0.0/8")):
        raise SpecError(
            f"network.range {allotted} is not within 127.0.0.0/8, which mode 'user' needs",
            "remove 'range' from config.toml, or set mode = \"network\"",
        )
    return Addressing(network, outbound=outbound)


def network_addressing(name: str, subnet: Subnet, allotted: str, ours: Iterable[str] = ()) -> Addressing:
    """Raises SpecError if the range is not within the network's subnet.

    `ours`: addresses of our members. The network knows them as reserved, but they are ours to give out again.
    """
    whole = ipaddress.IPv4Network(subnet.cidr)
    chosen = ipaddress.IPv4Network(allotted) if allotted else whole
    if not chosen.subnet_of(whole):
        raise SpecError(f"network.range {allotted} is not within {subnet.cidr}, the subnet of network {name!r}")
    foreign = tuple(address for address in subnet.reserved if address not in set(ours))
    return Addressing(chosen, name, replace(subnet, reserved=foreign), outbound=True)
