"""A fork becomes who it is: told by its guest agent while its network link is down, then the link is let up.

A shell waits in it since before its source was frozen, and is woken: in an emulated guest a new one takes half a
second until its first word.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.apply.agent import GuestAgent, next_look
from orchestrator.errors import AgentAbsent, GuestError, HostError, Interrupted, NeverReady
from orchestrator.models.setup_result import plain
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Patience
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.render.identity import ForkProgram, ForkWords

FORK_SECONDS = 120.0
"""A fork has nothing to boot: what does not serve by then will not."""
_AGENT_SECONDS = 15.0  # that an agent has to answer after its guest goes on
_WAKE_SECONDS = 15.0  # that the waiting shell has to say its first word
_WAKE_AGAIN = 1.0  # the source may have been frozen before its shell had come to wait
_LOOK = 0.01
_WORDS_BYTES = 30_000  # twice as much fits into a pipe that nobody reads yet: 65,536, pipe(7)
_SAID_BYTES = 64 * 1024
_WORDS = 200  # characters of what a failed script said
_WOKEN = "woken\n"


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
        if said is None or not self._wake(said, words, patience):
            self.agent.run_script(words.new, self.clock, patience)
        self.host.set_link(self.domain, up=True)
        if said is not None:
            with suppress(GuestError, HostError):
                self.agent.close_file(said)

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

    def _wake(self, handle: int, words: ForkWords, patience: Patience) -> bool:
        """False where none waits, or it cannot be spoken to: nothing has been done then."""
        said = self._read(handle)
        if said is None or (said and not said.startswith(_WOKEN)):  # it was sent away
            return False
        if not said and not self._speak(words):
            return False
        self._await_end(handle, said, words, patience)
        return True

    def _read(self, handle: int) -> str | None:
        try:
            return self.agent.read_on(handle)
        except AgentAbsent:
            raise
        except GuestError:
            return None

    def _speak(self, words: ForkWords) -> bool:
        if len(words.waiting) > _WORDS_BYTES:
            return False
        try:
            # Read and write: to that, a pipe without a reader is open, too.
            pipe = self.agent.open_file(self.program.wake, "r+")
        except AgentAbsent:
            raise
        except GuestError:
            return False
        # What goes wrong from here on may have been heard.
        self.agent.write_and_close(pipe, words.waiting)
        return True

    def _await_end(self, handle: int, said: str, words: ForkWords, patience: Patience) -> None:
        began = spoken_at = self.clock.monotonic()
        while True:
            said = _shortened(said + self.agent.read_on(handle))
            ended = _find_end(said, words.instance_id)
            if ended is not None:
                break
            now = self.clock.monotonic()
            if now >= patience.deadline:
                raise NeverReady("what the fork was told was not done in time")
            if not said and now >= began + _WAKE_SECONDS:
                raise GuestError("the shell that waits in the fork does not wake")
            if not said and now >= spoken_at + _WAKE_AGAIN:  # of two copies only the first is carried out
                self._speak(words)
                spoken_at = now
            self._rest(next_look(now - began), patience)
        if ended[1] != 0:
            raise GuestError(f"what the fork was told ended with status {ended[1]}: {ended[0]}")

    def _rest(self, seconds: float, patience: Patience) -> None:
        if patience.is_cancelled():
            raise Interrupted("the work is no longer wanted")
        self.clock.rest(seconds)


def _shortened(said: str) -> str:
    """What matters of it: who was woken, and the end."""
    return said if len(said) <= _SAID_BYTES else _WOKEN + said[-_SAID_BYTES // 2 :]


def _find_end(said: str, instance_id: str) -> tuple[str, int] | None:
    """What was said before the end, and the status; None as long as there is none. It only ends well as that
    instance; who ended before the words were read names nobody."""
    found = re.search(rf"^ended (?:{re.escape(instance_id)} (\d{{1,3}})| ([1-9]\d{{0,2}}))$", said, re.MULTILINE)
    if found is None:
        return None
    before = said[: found.start()].removeprefix(_WOKEN)
    return plain(before).strip()[-_WORDS:], int(found[1] or found[2])
