"""What is asked of a QEMU guest agent. It costs the guest no key exchange, which an emulated one feels.

The agent belongs to the guest: its answers are bounded and checked, never trusted.
Commands: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import contextlib

from orchestrator.errors import AgentAbsent, GuestError, Interrupted, NeverReady
from orchestrator.models.setup_result import plain
from orchestrator.ports.clock import Clock
from orchestrator.ports.guest import Patience
from orchestrator.ports.hypervisor import Hypervisor

_LIMIT = 64 * 1024
# How often it is asked whether a command has ended: each question takes a guest that is emulated some milliseconds
# of its one processor, the journal's included.
_LOOK, _SHARE = 0.04, 0.08  # at least (seconds), and of the time waited so far
_WORDS = 200  # characters of what a failed command said
# Not every `date` reads fractions of a second.
_SET_TIME = "date -u -s @{now:.3f} > /dev/null 2>&1 || date -u -s @{now:.0f} > /dev/null"
_EXEC_COMMANDS = {"guest-exec", "guest-exec-status"}
_FILE_COMMANDS = {"guest-file-open", "guest-file-read", "guest-file-seek", "guest-file-close"}


class GuestAgent:
    """The agent of one machine. Every call raises AgentAbsent while none answers, GuestError if it refuses."""

    def __init__(self, host: Hypervisor, domain: str) -> None:
        self._host = host
        self._domain = domain

    def can_read_files(self) -> bool:
        """True once an agent answers that may: some distributions forbid it to theirs."""
        return self._allows(_FILE_COMMANDS)

    def can_write_files(self) -> bool:
        """The same of reading and writing them."""
        return self._allows(_FILE_COMMANDS | {"guest-file-write"})

    def can_run(self) -> bool:
        """The same of running commands."""
        return self._allows(_EXEC_COMMANDS)

    def is_there(self) -> bool:
        """Whether an agent answers, whatever it says."""
        try:
            self.ping()
        except AgentAbsent:
            return False
        except GuestError:
            pass
        return True

    def ping(self) -> None:
        """Returns if an agent answers."""
        self._ask("guest-ping")

    def _allows(self, wanted: set[str]) -> bool:
        try:
            info = self._ask("guest-info")
        except GuestError:
            return False
        commands = info.get("supported_commands") if isinstance(info, dict) else None
        known = commands if isinstance(commands, list) else []
        allowed = {str(one.get("name")) for one in known if isinstance(one, dict) and one.get("enabled") is True}
        return allowed >= wanted

    def read_file(self, path: str, last: int = _LIMIT) -> str:
        """The last bytes of a file in the guest, at most 64 KiB; empty if there is none, or none may be read."""
        size = min(last, _LIMIT)
        try:
            opened = self._ask("guest-file-open", path=path, mode="r")
        except AgentAbsent:
            raise
        except GuestError:
            return ""
        handle = _handle(opened)
        try:
            with contextlib.suppress(GuestError):  # shorter than that: from its beginning
                self._ask("guest-file-seek", handle=handle, offset=-size, whence="end")
            return self.read_on(handle, size)
        finally:
            with contextlib.suppress(GuestError):
                self.close_file(handle)

    def open_file(self, path: str, mode: str) -> int:
        """A handle; `mode` as that of fopen(3)."""
        return _handle(self._ask("guest-file-open", path=path, mode=mode))

    def read_on(self, handle: int, size: int = _LIMIT) -> str:
        """What there is of an open file behind what was read of it, also if its end was met before."""
        return _content(self._ask("guest-file-read", handle=handle, count=size))[-size:]

    def write_and_close(self, handle: int, text: str) -> None:
        """All of it: the agent says what it could not write when it closes the file."""
        try:
            self._ask(
                "guest-file-write", **{"handle": handle, "buf-b64": base64.b64encode(text.encode()).decode()}
            )
        finally:
            self.close_file(handle)

    def close_file(self, handle: int) -> None:
        self._ask("guest-file-close", handle=handle)

    def set_time(self, clock: Clock, patience: Patience) -> None:
        """To that of `clock`, by a command where the agent may run one: its own call also writes the hardware
        clock, which QEMU keeps right, and for which `hwclock` of util-linux waits for the next half second."""
        try:
            self.run(_SET_TIME.format(now=clock.now()), clock, patience)
        except AgentAbsent:
            raise
        except GuestError:
            self._ask("guest-set-time", time=round(clock.now() * 1e9))

    def run(self, script: str, clock: Clock, patience: Patience) -> None:
        """Runs a shell script in the guest. Raises GuestError if it fails, NeverReady at the deadline."""
        self._run(clock, patience, path="/bin/sh", arg=["-c", script])

    def begin(self, script: str) -> None:
        """Runs a shell script in the guest, and does not wait for it."""
        self._ask("guest-exec", path="/bin/sh", arg=["-c", script])

    def run_script(self, script: str, clock: Clock, patience: Patience) -> None:
        """The same by standard input, for what no list of processes may show; the end of what it says goes into
        the error."""
        encoded = base64.b64encode(script.encode()).decode()
        self._run(clock, patience, **{"path": "/bin/sh", "input-data": encoded, "capture-output": True})

    def _run(self, clock: Clock, patience: Patience, **arguments: object) -> None:
        started = self._ask("guest-exec", **arguments)
        pid = started.get("pid") if isinstance(started, dict) else None
        if not isinstance(pid, int):
            raise GuestError("the guest agent's answer is not understood")
        began = clock.monotonic()
        while True:
            state = self._ask("guest-exec-status", pid=pid)
            if isinstance(state, dict) and state.get("exited") is True:
                break
            now = clock.monotonic()
            if now >= patience.deadline:
                raise NeverReady("what the guest agent was asked to run was not done in time")
            if patience.is_cancelled():
                raise Interrupted("the work is no longer wanted")
            clock.rest(next_look(now - began))
        if state.get("exitcode") != 0:
            words = _said(state)
            status = f"what the guest agent ran ended with status {state.get('exitcode')!r:.20}"
            raise GuestError(f"{status}: {words}" if words else status)

    def _ask(self, command: str, **arguments: object) -> object:
        return self._host.ask_agent(self._domain, command, arguments)


def next_look(waited: float) -> float:
    """Seconds until a guest that was given something to do `waited` seconds ago is asked about it again."""
    return max(_LOOK, waited * _SHARE)


def _said(state: dict[str, object]) -> str:
    """The end of what a command wrote about its failure."""
    encoded = state.get("err-data")
    if not isinstance(encoded, str) or len(encoded) > 2 * _LIMIT:
        return ""
    try:
        said = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
    except ValueError:
        return ""
    return plain(said).strip()[-_WORDS:]


def _handle(answer: object) -> int:
    if not isinstance(answer, int):
        raise GuestError("the guest agent's answer is not understood")
    return answer


def _content(answer: object) -> str:
    encoded = answer.get("buf-b64") if isinstance(answer, dict) else None
    if not isinstance(encoded, str) or len(encoded) > 2 * _LIMIT:
        raise GuestError("the guest agent's answer is not understood")
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
    except ValueError as error:  # also of text that is not ASCII
        raise GuestError("the guest agent's answer is not base64") from error
