"""How the end of a guest's unattended setup is found out: from its console, by its agent, else by SSH."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent
from orchestrator.errors import (
    AgentAbsent,
    ConnectionLost,
    Interrupted,
    NeverReady,
    SetupFailed,
    UnderstudyError,
)
from orchestrator.models.setup_result import (
    OUTPUT_FILE,
    RESULT_FILE,
    TAIL_SIZE,
    failure,
    is_well_on_console,
    setup_errors,
)
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Guest, GuestAddress, GuestShell, Patience

_LOOK = 0.05


@dataclass(frozen=True)
class SetupWatch:
    """One guest on its first boot.

    `console` gives the end of what its serial console has shown, `instance_id` is the one that its seed names.
    `grace`: seconds that an agent has to appear once SSH answers.
    """

    guest: Guest
    agent: GuestAgent
    console: Callable[[], str]
    instance_id: str
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
        """By the time that SSH answers, or soon after: there is an agent, or the console has told the end."""
        heard: list[bool] = []

        def hears() -> bool:
            if self._is_well() or self.agent.can_read_files():
                heard.append(True)
            return bool(heard)

        or_heard = Patience(patience.deadline, lambda: patience.is_cancelled() or hears())
        try:
            self.guest.await_ssh(self.where, or_heard)
            end = min(self.clock.monotonic() + self.grace, patience.deadline)
            while self.clock.monotonic() < end:
                self._rest(or_heard)
        except Interrupted:
            if patience.is_cancelled():
                raise
        return bool(heard)

    def _await_result(self, patience: Patience) -> None:
        while not self._is_well():
            result = self.agent.read_file(RESULT_FILE)
            if result:
                self._judge(result)
                return
            if self.clock.monotonic() >= patience.deadline:
                raise NeverReady(f"setup of {self.where.name} did not end in time")
            self._rest(patience)

    def _is_well(self) -> bool:
        """A failure is left to the agent or SSH, which know the output, too."""
        with contextlib.suppress(UnderstudyError):
            return is_well_on_console(self.console(), self.instance_id)
        return False

    def _judge(self, result: str) -> None:
        errors = setup_errors(result)
        if errors:
            raise SetupFailed(failure(self.where.name, errors, self.agent.read_file(OUTPUT_FILE, TAIL_SIZE)))

    def _rest(self, patience: Patience) -> None:
        if patience.is_cancelled():
            raise Interrupted(f"{self.where.name} is no longer waited for")
        self.clock.rest(_LOOK)
