"""How the end of a guest's unattended setup is found out: by its agent where one answers, else by SSH."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent
from orchestrator.errors import AgentAbsent, ConnectionLost, GuestError, Interrupted, NeverReady, SetupFailed
from orchestrator.models.setup_result import OUTPUT_FILE, RESULT_FILE, TAIL_SIZE, failure, setup_errors
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Guest, GuestAddress, GuestShell, Patience

_LOOK = 0.05


@dataclass(frozen=True)
class SetupWatch:
    """One guest on its first boot. `grace`: seconds that an agent has to appear once SSH answers."""

    guest: Guest
    agent: GuestAgent
    where: GuestAddress
    clock: Clock
    grace: float

    def await_end(self, patience: Patience) -> None:
        """Raises SetupFailed, NeverReady or Interrupted."""
        heard = self._hear_agent(patience)
        if heard is not None:
            try:
                self._judge(heard or self._await_result(patience))
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

    def _hear_agent(self, patience: Patience) -> str | None:
        """What an agent that is there by the time that SSH answers, or soon after, reads: the result, or nothing
        yet. None without an agent."""
        heard: list[str] = []

        def is_there() -> bool:
            try:
                result = self.agent.read_file(RESULT_FILE)
                if not result and not self.agent.can_read_files():
                    return False
            except GuestError:
                return False
            heard.append(result)
            return True

        or_agent = Patience(patience.deadline, lambda: patience.is_cancelled() or is_there())
        try:
            self.guest.await_ssh(self.where, or_agent)
            end = min(self.clock.monotonic() + self.grace, patience.deadline)
            while self.clock.monotonic() < end:
                self._rest(or_agent)
        except Interrupted:
            if patience.is_cancelled():
                raise
            return heard[-1]
        return None

    def _await_result(self, patience: Patience) -> str:
        while True:
            result = self.agent.read_file(RESULT_FILE)
            if result:
                return result
            if self.clock.monotonic() >= patience.deadline:
                raise NeverReady(f"setup of {self.where.name} did not end in time")
            self._rest(patience)

    def _judge(self, result: str) -> None:
        errors = setup_errors(result)
        if errors:
            raise SetupFailed(failure(self.where.name, errors, self.agent.read_file(OUTPUT_FILE, TAIL_SIZE)))

    def _rest(self, patience: Patience) -> None:
        if patience.is_cancelled():
            raise Interrupted(f"{self.where.name} is no longer waited for")
        self.clock.rest(_LOOK)
