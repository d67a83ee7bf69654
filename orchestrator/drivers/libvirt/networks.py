"""libvirt networks: their subnet, and address reservations so that nobody else is leased what we allot."""

from __future__ import annotations

import ipaddress
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.errors import translated
from orchestrator.errors import HostError
from orchestrator.models.machine import Nic, Subnet
from orchestrator.models.stock import Reservation


class Networks:
    """Networks of one host, by name."""

    def __init__(self, connection: LibvirtConnection) -> None:
        self._connection = connection

    def describe(self, name: str) -> Subnet:
        """Raises NotFound, or HostError without an IPv4 subnet."""
        ip, dhcp = self._ip_part(name)
        mask = ip.get("netmask") or ip.get("prefix") or "24"
        gateway = ip.get("address", "")
        subnet = ipaddress.IPv4Network(f"{gateway}/{mask}", strict=False)
        reserved = {gateway}
        dynamic: tuple[tuple[str, str], ...] = ()
        if dhcp is not None:
            reserved |= {host.get("ip", "") for host in dhcp.findall("host")} | self._leased(name)
            dynamic = tuple((part.get("start", ""), part.get("end", "")) for part in dhcp.findall("range"))
        return Subnet(str(subnet), gateway, (gateway,), tuple(sorted(reserved)), dynamic)

    def _leased(self, name: str) -> set[str]:
        with translated(f"cannot read the leases of network {name!r}"):
            leases = self._connection.get().networkLookupByName(name).DHCPLeases()
        return {str(lease["ipaddr"]) for lease in leases}

    def ensure_active(self, name: str) -> Any:
        """That network, which runs."""
        with translated(f"cannot use network {name!r} on {self._connection.uri}"):
            network = self._connection.get().networkLookupByName(name)
            if not network.isActive():
                network.create()
            return network

    def ensure_reservation(self, nic: Nic, member: str) -> None:
        """A DHCP host entry for the card, where the network runs DHCP at all."""
        _, dhcp = self._ip_part(nic.network)
        if dhcp is None:
            return
        for host in dhcp.findall("host"):
            if host.get("ip") == nic.address and host.get("mac") == nic.mac:
                return
        entry = ElementTree.Element("host", mac=nic.mac, name=member, ip=nic.address)
        self._update(nic.network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, entry)

    def remove_reservations(self, member: str) -> None:
        """From every network that has one for this member. Absent is success."""
        for network in self._all():
            root = ElementTree.fromstring(network.XMLDesc())  # noqa: S314 - libvirtd's own document
            for host in root.findall(f"./ip/dhcp/host[@name='{member}']"):
                self._update(network.name(), libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, host)

    def list_reservations(self) -> list[Reservation]:
        """Those of every network that runs, whosever they are."""
        found = []
        for network in self._all():
            root = ElementTree.fromstring(network.XMLDesc())  # noqa: S314 - libvirtd's own document
            for host in root.findall("./ip/dhcp/host[@mac]"):
                words = (host.get("name", ""), host.get("mac", ""), host.get("ip", ""))
                found.append(Reservation(network.name(), *words))
        return found

    def remove_reservation(self, one: Reservation) -> None:
        """Exactly that one. Absent is success."""
        if one in self.list_reservations():
            entry = ElementTree.Element("host", mac=one.mac, name=one.member, ip=one.address)
            self._update(one.network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, entry)

    def runs_dhcp(self, name: str) -> bool:
        """Raises NotFound."""
        with translated(f"cannot use network {name!r} on {self._connection.uri}"):
            network = self._connection.get().networkLookupByName(name)
            root = ElementTree.fromstring(network.XMLDesc())  # noqa: S314 - libvirtd's own document
        return bool(network.isActive()) and root.find("./ip/dhcp") is not None

    def _all(self) -> list[Any]:
        connection = self._connection.get()
        try:
            return list(connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return []
            raise

    def _ip_part(self, name: str) -> tuple[ElementTree.Element, ElementTree.Element | None]:
        network = self.ensure_active(name)
        with translated(f"cannot use network {name!r} on {self._connection.uri}"):
            root = ElementTree.fromstring(network.XMLDesc())  # noqa: S314 - libvirtd's own document
        for ip in root.findall("ip"):
            if ip.get("family", "ipv4") == "ipv4" and ip.get("address"):
                return ip, ip.find("dhcp")
        raise HostError(
            f"network {name!r} on {self._connection.uri} has no IPv4 address",
            "use a libvirt network in nat, route or isolated mode with an <ip> part",
        )

    def _update(self, name: str, command: int, entry: ElementTree.Element) -> None:
        flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        with translated(f"cannot change the reservations of network {name!r}"):
            network = self._connection.get().networkLookupByName(name)
            if not network.isPersistent():
                flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
            section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
            network.update(command, section, -1, ElementTree.tostring(entry, encoding="unicode"), flags)
