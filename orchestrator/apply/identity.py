"""A fork becomes who it is: told by its guest agent while its network link is down, then the link is let up."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent
from orchestrator.errors import AgentAbsent, Interrupted
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Patience
from orchestrator.ports.hypervisor import Hypervisor

FORK_SECONDS = 120.0
"""A fork has nothing to boot: what does not serve by then will not."""
_AGENT_SECONDS = 15.0  # that an agent has to answer after its guest goes on
_LOOK = 0.01


@dataclass(frozen=True)
class Christening:
    """One fork. Every step may be repeated."""

    host: Hypervisor
    domain: str
    agent: GuestAgent
    clock: Clock

    def perform(self, script: str, patience: Patience) -> None:
        """Raises GuestError, HostError or Interrupted; the link is up only after the script has ended well."""
        self._await_agent(patience)
        self.agent.run_script(script, self.clock, patience)
        self.host.set_link(self.domain, up=True)

    def _await_agent(self, patience: Patience) -> None:
        end = min(self.clock.monotonic() + _AGENT_SECONDS, patience.deadline)
        while True:
            try:
                self.agent.ping()
                return
            except AgentAbsent:
                if self.clock.monotonic() >= end:
                    raise
            if patience.is_cancelled():
                raise Interrupted("the work is no longer wanted")
            self.clock.rest(_LOOK)
