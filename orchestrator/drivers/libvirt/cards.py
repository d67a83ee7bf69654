"""Network cards of machines that begin with their link down.

A network filter takes libvirt longer than the start of a machine, one machine at a time on a host. So the machine
starts without, and unconnected; while its guest begins, the card gets its filter, and only then its link.
"""

from __future__ import annotations

import json
from typing import Any

import libvirt
import libvirt_qemu

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.filters import Filters
from orchestrator.drivers.libvirt.networks import Networks
from orchestrator.errors import HostError
from orchestrator.models.machine import Nic
from orchestrator.render.card import find_pending, render_card, render_held
from orchestrator.render.domain import USER_NETDEV

_DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


class Cards:
    """Of machines on a libvirt network. Each step may have been done before."""

    def __init__(self, connection: LibvirtConnection, networks: Networks, filters: Filters) -> None:
        self._connection = connection
        self._networks = networks
        self._filters = filters

    def prepare(self, nic: Nic) -> None:
        """Before a machine is made: its network runs, and its filter is known. Raises NotFound."""
        self._networks.ensure_active(nic.network)
        if nic.filter:
            self._filters.ensure(nic.filter)

    def start_held(self, domain: Any, nic: Nic, member: str) -> None:
        """Starts a machine that is defined and off, with its link down. Its definition is left as it is: from that
        libvirt starts it with its filter, at any other time."""
        self._connection.get().createXML(render_held(domain.XMLDesc(_DEFINITION), nic, member))

    def let_up(self, domain: Any) -> None:
        """Everything the card has to get, and its link last."""
        self.put_filter(domain)
        self.reserve(domain)
        set_link(domain, up=True)

    def put_filter(self, domain: Any) -> None:
        """On a machine that runs; it has it from here on, whatever becomes of its link."""
        pending = find_pending(domain.XMLDesc(0))
        if pending is not None and pending.filterref:
            update_card(domain, filterref=pending.filterref)

    def reserve(self, domain: Any) -> None:
        """Its address, with the network's DHCP."""
        pending = find_pending(domain.XMLDesc(0))
        if pending is not None:
            self._networks.ensure_reservation(pending.nic, pending.member)


def set_link(domain: Any, up: bool) -> None:
    """Raises HostError if it does not run."""
    if not domain.isActive():
        raise HostError(f"cannot set the link of {domain.name()!r}: it does not run")
    if not update_card(domain, up):
        # In user mode libvirt knows of no card.
        request = {"execute": "set_link", "arguments": {"name": USER_NETDEV, "up": up}}
        libvirt_qemu.qemuMonitorCommand(domain, json.dumps(request), 0)


def update_card(domain: Any, up: bool | None = None, filterref: str = "") -> bool:
    """False if libvirt knows of no card."""
    card = render_card(domain.XMLDesc(0), up, filterref)
    if card is not None:
        domain.updateDeviceFlags(card, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return card is not None
