"""A fork becomes who it is: told by its guest agent while its network link is down, then the link is let up.

A shell waits in it since before its source was frozen, and is woken: in an emulated guest a new one takes half a
second until its first word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent, next_look
from orchestrator.errors import AgentAbsent, GuestError, Interrupted, NeverReady
from orchestrator.models.setup_result import plain
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Patience
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.render.identity import ForkProgram, ForkWords

FORK_SECONDS = 120.0
"""A fork has nothing to boot: what does not serve by then will not."""
_AGENT_SECONDS = 15.0  # that an agent has to answer after its guest goes on
_WAKE_SECONDS = 15.0  # that the waiting shell has to say its first word
_LOOK = 0.01
_PIPE_BYTES = 60_000  # of the 65,536 that a pipe holds before anybody reads it: pipe(7)
_SAID_BYTES = 64 * 1024
_WORDS = 200  # characters of what a failed script said


@dataclass(frozen=True)
class Christening:
    """One fork. Every step may be repeated."""

    host: Hypervisor
    domain: str
    agent: GuestAgent
    clock: Clock
    program: ForkProgram

    def perform(self, words: ForkWords, patience: Patience) -> None:
        """The link is up once this returns. Raises GuestError, HostError or Interrupted."""
        said = self._await_agent(patience)
        if said is None or len(words.waiting) > _PIPE_BYTES:
            self.agent.run_script(words.new, self.clock, patience)
        else:
            self._wake(said, words, patience)
        self.host.set_link(self.domain, up=True)

    def _await_agent(self, patience: Patience) -> int | None:
        """A handle of what the waiting shell says; None if there is no such shell."""
        end = min(self.clock.monotonic() + _AGENT_SECONDS, patience.deadline)
        while True:
            try:
                return self.agent.open_file(self.program.said, "r")
            except AgentAbsent:
                if self.clock.monotonic() >= end:
                    raise
            except GuestError:
                return None
            self._rest(_LOOK, patience)

    def _wake(self, handle: int, words: ForkWords, patience: Patience) -> None:
        said = self.agent.read_on(handle)
        if not said:  # else somebody has woken it who did not see its end
            pipe = self.agent.open_file(self.program.wake, "r+")  # to which a pipe without a reader is open, too
            self.agent.write_and_close(pipe, words.waiting)
        began = self.clock.monotonic()
        while True:
            said += self.agent.read_on(handle)
            ended = _find_end(said, words.instance_id)
            if ended is not None:
                break
            now = self.clock.monotonic()
            if now >= patience.deadline or len(said) > _SAID_BYTES:
                raise NeverReady("what the fork was told was not done in time")
            if not said and now >= began + _WAKE_SECONDS:
                raise GuestError("the shell that waits in the fork does not wake")
            self._rest(next_look(now - began), patience)
        if ended[1] != 0:
            raise GuestError(f"what the fork was told ended with status {ended[1]}: {ended[0]}")
        self.agent.close_file(handle)

    def _rest(self, seconds: float, patience: Patience) -> None:
        if patience.is_cancelled():
            raise Interrupted("the work is no longer wanted")
        self.clock.rest(seconds)


def _find_end(said: str, instance_id: str) -> tuple[str, int] | None:
    """What was said before the end, and the status; None as long as there is none."""
    # One that ended before it had read who it is to be names nobody.
    found = re.search(rf"^ended (?:{re.escape(instance_id)})? ?(\d{{1,3}})\n\Z", said, re.MULTILINE)
    if found is None:
        return None
    return plain(said[: found.start()].removeprefix("woken\n")).strip()[-_WORDS:], int(found[1])
