"""How the end of a guest's unattended setup is found out: from its console, by its agent, else by SSH."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.console import SetupConsole
from orchestrator.errors import AgentAbsent, ConnectionLost, Interrupted, NeverReady, SetupFailed
from orchestrator.models.setup_result import OUTPUT_FILE, RESULT_FILE, TAIL_SIZE, failure, setup_errors
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Guest, GuestAddress, GuestShell, Patience

_LOOK = 0.05
# It costs the host some calls each time. Guests need its processors, and an agent is there long before the end: at
# least so many seconds, and this share of the time waited so far.
_AGENT_LOOK, _AGENT_SHARE = 0.25, 0.1
_RARELY = 1.0


@dataclass(frozen=True)
class SetupWatch:
    """One guest on its first boot. `grace`: seconds that an agent has to appear once SSH answers."""

    guest: Guest
    agent: GuestAgent
    console: SetupConsole
    where: GuestAddress
    clock: Clock
    grace: float

    def await_end(self, patience: Patience) -> None:
        """Raises SetupFailed, NeverReady or Interrupted."""
        if self._hears(patience):
            try:
                self._await_result(patience)
                return
            except AgentAbsent:
                pass
        self.open_shell(patience).close()

    def open_shell(self, patience: Patience) -> GuestShell:
        """A shell in a guest whose setup is done. Setup may restart the guest, which ends connections (row A5)."""
        while True:
            shell = self.guest.open_shell(self.where, patience)
            try:
                shell.await_setup(patience)
            except ConnectionLost:
                shell.close()
            except BaseException:
                shell.close()
                raise
            else:
                return shell

    def _hears(self, patience: Patience) -> bool:
        """By the time that SSH answers, or soon after: the console tells or will tell, or there is an agent."""
        heard: list[bool] = []
        began = due = self.clock.monotonic()

        def hears() -> bool:
            nonlocal due
            self.console.listen()
            if self.console.has_promised or self.console.is_well:
                heard.append(True)
            elif self.clock.monotonic() >= due:
                now = self.clock.monotonic()
                due = now + max(_AGENT_LOOK, (now - began) * _AGENT_SHARE)
                if self.agent.can_read_files():
                    heard.append(True)
            return bool(heard)

        or_heard = Patience(patience.deadline, lambda: patience.is_cancelled() or hears())
        try:
            self.guest.await_ssh(self.where, or_heard)
            began = due = self.clock.monotonic()  # now it is asked often again
            end = min(began + self.grace, patience.deadline)
            while self.clock.monotonic() < end:
                self._rest(or_heard)
        except Interrupted:
            if patience.is_cancelled():
                raise
        return bool(heard)

    def _await_result(self, patience: Patience) -> None:
        """Raises AgentAbsent if nobody is there to tell it."""
        asked_at = self.clock.monotonic()
        while not self.console.is_well:
            # Whatever else is written there may have hidden the console's word.
            if not self.console.will_tell or self.clock.monotonic() >= asked_at + _RARELY:
                asked_at = self.clock.monotonic()
                result = self._read_result()
                if result:
                    self._judge(result)
                    return
            if self.clock.monotonic() >= patience.deadline:
                raise NeverReady(f"setup of {self.where.name} did not end in time")
            self._rest(patience)
            self.console.listen()

    def _read_result(self) -> str:
        try:
            return self.agent.read_file(RESULT_FILE)
        except AgentAbsent:
            if self.console.will_tell:
                return ""
            raise

    def _judge(self, result: str) -> None:
        errors = setup_errors(result)
        if errors:
            raise SetupFailed(failure(self.where.name, errors, self.agent.read_file(OUTPUT_FILE, TAIL_SIZE)))

    def _rest(self, patience: Patience) -> None:
        if patience.is_cancelled():
            raise Interrupted(f"{self.where.name} is no longer waited for")
        self.clock.rest(_LOOK)
