"""What is asked of a QEMU guest agent. It costs the guest no key exchange, which an emulated one feels.

The agent belongs to the guest: its answers are bounded and checked, never trusted.
Commands: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import contextlib

from orchestrator.errors import AgentAbsent, GuestError, Interrupted, NeverReady
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Patience
from orchestrator.ports.hypervisor import Hypervisor

_LIMIT = 64 * 1024
_LOOK = 0.02
_FILE_COMMANDS = {"guest-file-open", "guest-file-read", "guest-file-seek", "guest-file-close"}


class GuestAgent:
    """The agent of one machine. Every call raises AgentAbsent while none answers, GuestError if it refuses."""

    def __init__(self, host: Hypervisor, domain: str) -> None:
        self._host = host
        self._domain = domain

    def can_read_files(self) -> bool:
        """True once an agent answers that may: some distributions forbid it to theirs."""
        try:
            info = self._ask("guest-info")
        except GuestError:
            return False
        commands = info.get("supported_commands") if isinstance(info, dict) else None
        known = commands if isinstance(commands, list) else []
        allowed = {str(one.get("name")) for one in known if isinstance(one, dict) and one.get("enabled") is True}
        return allowed >= _FILE_COMMANDS

    def read_file(self, path: str, last: int = _LIMIT) -> str:
        """The last bytes of a file in the guest, at most 64 KiB; empty if there is none, or none may be read."""
        size = min(last, _LIMIT)
        try:
            handle = self._ask("guest-file-open", path=path, mode="r")
        except AgentAbsent:
            raise
        except GuestError:
            return ""
        try:
            with contextlib.suppress(GuestError):  # shorter than that: from its beginning
                self._ask("guest-file-seek", handle=handle, offset=-size, whence="end")
            answer = self._ask("guest-file-read", handle=handle, count=size)
        finally:
            with contextlib.suppress(GuestError):
                self._ask("guest-file-close", handle=handle)
        return _content(answer)[-size:]

    def set_time(self, now: float) -> None:
        """Epoch seconds."""
        self._ask("guest-set-time", time=round(now * 1e9))

    def run(self, script: str, clock: Clock, patience: Patience) -> None:
        """Runs a shell script in the guest. Raises GuestError if it fails, NeverReady at the deadline."""
        started = self._ask("guest-exec", path="/bin/sh", arg=["-c", script])
        pid = started.get("pid") if isinstance(started, dict) else None
        if not isinstance(pid, int):
            raise GuestError("the guest agent's answer is not understood")
        while True:
            state = self._ask("guest-exec-status", pid=pid)
            if isinstance(state, dict) and state.get("exited") is True:
                break
            if clock.monotonic() >= patience.deadline:
                raise NeverReady("what the guest agent was asked to run was not done in time")
            if patience.is_cancelled():
                raise Interrupted("the work is no longer wanted")
            clock.rest(_LOOK)
        if state.get("exitcode") != 0:
            raise GuestError(f"what the guest agent ran ended with status {state.get('exitcode')!r:.20}")

    def _ask(self, command: str, **arguments: object) -> object:
        return self._host.ask_agent(self._domain, command, arguments)


def _content(answer: object) -> str:
    encoded = answer.get("buf-b64") if isinstance(answer, dict) else None
    if not isinstance(encoded, str) or len(encoded) > 2 * _LIMIT:
        raise GuestError("the guest agent's answer is not understood")
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
    except ValueError as error:  # also of text that is not ASCII
        raise GuestError("the guest agent's answer is not base64") from error
