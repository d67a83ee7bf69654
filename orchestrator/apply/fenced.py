"""Hosts as effects reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from orchestrator.ports.hypervisor import Hypervisor


class FencedHosts(Mapping[str, Hypervisor]):
    """Every look-up of a host makes sure first that this process is still the controller; `check` raises."""

    def __init__(self, hosts: Mapping[str, Hypervisor], check: Callable[[], None]) -> None:
        self._hosts = hosts
        self._check = check

    def __getitem__(self, name: str) -> Hypervisor:
        host = self._hosts[name]
        self._check()
        return host

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)
