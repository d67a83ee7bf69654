"""A host tells of a guest's restart once; nothing is planned for a member on which work is under way."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from orchestrator.models.sightings import HostSighting, MachineSighting


class MissedRestarts:
    """Keeps restarts of guests that were seen while they were being told something, until that is over."""

    def __init__(self) -> None:
        self._kept: set[tuple[str, int]] = set()  # (domain, incarnation)

    def add(self, hosts: Mapping[str, HostSighting], being_told: Set[str]) -> dict[str, HostSighting]:
        """The same sightings, with the restarts that were kept; `being_told` are names of members."""
        if not (self._kept or being_told):
            return dict(hosts)
        return {name: self._add(host, being_told) for name, host in hosts.items()}

    def _add(self, host: HostSighting, being_told: Set[str]) -> HostSighting:
        machines = {domain: self._see(seen, seen.member in being_told) for domain, seen in host.machines.items()}
        return replace(host, machines=machines)

    def _see(self, seen: MachineSighting, is_being_told: bool) -> MachineSighting:
        key = seen.domain, seen.incarnation
        if is_being_told:
            self._kept |= {key} if seen.rebooted else set()
            return seen
        was_missed = key in self._kept
        self._kept.discard(key)
        return replace(seen, rebooted=True) if was_missed else seen
