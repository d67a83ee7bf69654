"""The load balancer as the loop needs it."""

from __future__ import annotations

from typing import Protocol

from orchestrator.models.balancing import BalancerConfig
from orchestrator.models.sightings import BalancerSighting


class Balancer(Protocol):
    def observe(self) -> BalancerSighting:
        """What is running now. Never raises: not running is an answer."""

    def converge(self, config: BalancerConfig) -> None:
        """Make the running process and its file equal to `config`; no frontends: stop it.

        Raises BalancerError; the running process then still serves what it served.
        """

    def why_not_bindable(self, address: str, port: int) -> str:
        """Empty if an endpoint could listen there (or already does, as ours), else the reason."""
