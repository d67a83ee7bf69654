"""Our machines as libvirt shows them, all in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.ownership import HostIdentity, Owner, find_owner
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import MachineSighting, Power

# Never wait for a job on one machine while looking at all of them.
_LOOK_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT

_Signs = tuple[str, Mapping[str, int], bool]
"""UUID, libvirt's state, and whether its memory is saved: what tells whether a machine is as it was."""


class MachineView:
    """Of one host. What was seen is kept from one look to the next: most is as it was."""

    def __init__(self, identity: HostIdentity) -> None:
        self._identity = identity
        self._owners: dict[str, Owner | None] = {}
        self._seen: dict[str, tuple[_Signs, MachineSighting]] = {}

    def find(self, connection: Any, rebooted: set[str]) -> dict[str, MachineSighting]:
        """Ours, by domain. `rebooted`: UUIDs of those whose guests restarted since the last look."""
        saved = {one.name() for one in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)}
        last, seen = self._seen, {}
        for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, _LOOK_FLAGS):
            name = domain.name()
            signs = (domain.UUIDString(), stats, name in saved)
            known = last.get(name)
            if known is None or known[0] != signs:
                machine = self._see(domain, stats, name in saved)
                if machine is None:
                    continue
                known = signs, machine
            seen[name] = known
        self._seen = seen
        return {
            name: replace(machine, rebooted=True) if signs[0] in rebooted else machine
            for name, (signs, machine) in seen.items()
        }

    def _see(self, domain: Any, stats: Mapping[str, int], is_saved: bool) -> MachineSighting | None:
        """None if it is not ours."""
        name = domain.name()
        owner = self.owner_of(domain) if name.startswith(f"{self._identity.prefix}-") else None
        # A copy that somebody made of our machine, under another name, has our tag too.
        if owner is None or name != domain_name(self._identity.prefix, owner.member):
            return None
        power = _power(stats.get("state.state", 0), stats.get("state.reason", 0))
        if power is Power.STOPPED and is_saved:
            power = Power.HIBERNATED
        halted = stats.get("state.state") == libvirt.VIR_DOMAIN_PAUSED and (
            stats.get("state.reason") == libvirt.VIR_DOMAIN_PAUSED_IOERROR
        )
        return MachineSighting(name, owner.member, owner.incarnation, power, halted=halted, forked=owner.forked)

    def owner_of(self, domain: Any) -> Owner | None:
        """Cached by UUID: every incarnation has its own, and tags are written once."""
        uuid = domain.UUIDString()
        if uuid not in self._owners:
            self._owners[uuid] = find_owner(domain)
        owner = self._owners[uuid]
        return owner if owner is not None and owner.installation == self._identity.installation else None


def _power(state: int, reason: int) -> Power:
    if state in (libvirt.VIR_DOMAIN_CRASHED,):
        return Power.CRASHED
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        # A machine that could not be started (SHUTOFF_FAILED) is off: nothing in it went wrong.
        return Power.CRASHED if reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED else Power.STOPPED
    return Power.RUNNING
