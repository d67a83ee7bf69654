"""A shell in a guest over SSH (paramiko), its host key strictly checked."""

from __future__ import annotations

import base64
import logging
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import paramiko

from orchestrator.drivers import probes
from orchestrator.drivers.attended import Give, attend, bounded_transport, close_client, cut
from orchestrator.errors import ConnectionLost, GuestError, Interrupted, NeverReady, SetupFailed
from orchestrator.lifecycle.telling import tell_script
from orchestrator.models.members import GuestPhase
from orchestrator.models.setup_result import OUTPUT_FILE, RESULT_FILE, TAIL_SIZE, failure, plain, setup_errors
from orchestrator.ports.guest import GuestAddress, Listen, Patience

_CONNECT_SECONDS = 60.0  # an emulated guest that boots takes its time over a key exchange
_PAUSE = 0.1
_LOGIN_PAUSE = 0.5
_MAX_OUTPUT = 64 * 1024
_CHUNK = 32 * 1024
# Output of a command that has ended is waited for so long (seconds): what it left running may print for ever.
_REST_SECONDS = 1.0
_MOST_UNREAD = 8 * 2**20  # bytes; a server may send 2 MiB (paramiko's window) before it is told to go on
# Read from the session itself: of one that was closed before, some servers take a late word amiss and hang up.
_UNPACK = "tar -xf - -C /"

# Waits inside the guest, where it costs no round trips; cloud-init writes the file at the end of every boot.
# A guest that is quick is looked at often, one that is slow has better things to do than to start `sleep`.
_AWAIT_RESULT = (
    f"n=0; while [ ! -s {RESULT_FILE} ]; do "
    f"if [ $n -lt 60 ]; then sleep 0.05; else sleep 1; fi; n=$((n+1)); done; cat {RESULT_FILE}"
)
_SETUP_TAIL = f"tail -n 20 {OUTPUT_FILE} 2>/dev/null"

# paramiko logs every failed attempt with a traceback; what matters becomes our error.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def log_in(key_file: Path, where: GuestAddress, patience: Patience) -> SshShell:
    """Tries until SSH answers with the expected host key, the deadline or cancellation. Raises GuestError."""
    key = paramiko.Ed25519Key.from_private_key_file(str(key_file))
    reason = "it does not answer in time"
    while True:
        failed = f"cannot log in to {where.name} on {where.address}:{where.ssh_port}: {reason}"
        client = _client(where)
        connection = probes.open_ssh(where.address, where.ssh_port, patience)
        try:
            _start_session(client, connection, key, where, partial(_check, patience, failed))
            return SshShell(client, where.name)
        except (paramiko.SSHException, OSError, EOFError) as error:
            # Early in boot the server may run before the keys are in place: that passes by itself.
            reason = str(error) or type(error).__name__
        if time.monotonic() >= patience.deadline:
            raise GuestError(f"cannot log in to {where.name} on {where.address}:{where.ssh_port}: {reason}")
        probes.rest(patience, _LOGIN_PAUSE)


def _start_session(
    client: paramiko.SSHClient,
    connection: socket.socket,
    key: paramiko.PKey,
    where: GuestAddress,
    look: Callable[[], None],
) -> None:
    """Raises what paramiko raises, and what `look` raises as soon as it does; then all is closed."""

    def connect(_give: Give) -> None:
        client.connect(
            where.address,
            where.ssh_port,
            sock=connection,
            username="root",
            pkey=key,
            timeout=_CONNECT_SECONDS,
            banner_timeout=_CONNECT_SECONDS,
            auth_timeout=_CONNECT_SECONDS,
            allow_agent=False,
            look_for_keys=False,
            transport_factory=bounded_transport,
        )

    try:
        attend(connect, look, lambda _piece: None, lambda: cut(connection))
    except BaseException:
        close_client(client)
        connection.close()
        raise


def _check(patience: Patience, late: str) -> None:
    if patience.is_cancelled():
        raise Interrupted(late)
    if time.monotonic() >= patience.deadline:
        raise NeverReady(late)


class SshShell:
    """One SSH session as root."""

    def __init__(self, client: paramiko.SSHClient, name: str) -> None:
        self._client = client
        self._name = name

    def await_setup(self, patience: Patience) -> None:
        status, output = self._execute(_AWAIT_RESULT, patience)
        if status != 0:
            raise SetupFailed(f"{self._name} gives no setup result: {plain(output)[-TAIL_SIZE:]}")
        errors = setup_errors(output)
        if errors:
            _, tail = self._execute(_SETUP_TAIL, patience)
            raise SetupFailed(failure(self._name, errors, tail))

    def run(
        self,
        command: str,
        patience: Patience,
        listen: Listen | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        given = [f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()]
        # SSH servers take no variables from clients, as a rule.
        prepared = f"export {' '.join(given)}; {command}" if given else command
        status, output = self._execute(prepared, patience, listen)
        if status != 0:
            tail = plain(output)[-TAIL_SIZE:]
            raise GuestError(f"in {self._name}, {command!r} ended with status {status}: {tail}".rstrip(": "))

    def tell_phase(self, phase: GuestPhase, patience: Patience) -> None:
        self.run(tell_script(phase), patience)

    def run_script(self, script: str, arguments: Sequence[str], patience: Patience) -> None:
        words = ("sh", "-c", script, "understudy", *arguments)
        status, output = self._execute(shlex.join(words), patience)
        if status != 0:
            raise GuestError(f"in {self._name}, {plain(output)[-TAIL_SIZE:].strip() or f'status {status}'}")

    def set_clock(self, now: float, patience: Patience) -> None:
        self.run(f"date -u -s @{round(now)}", patience)

    def upload(self, archive: Path, patience: Patience) -> None:
        status, output = self._execute(_UNPACK, patience, source=archive)
        if status != 0:
            tail = plain(output)[-TAIL_SIZE:]
            raise GuestError(
                f"cannot upload to {self._name}: {_UNPACK!r} ended with status {status}: {tail}".rstrip(": ")
            )

    def close(self) -> None:
        close_client(self._client)

    def _execute(
        self, command: str, patience: Patience, listen: Listen | None = None, source: Path | None = None
    ) -> tuple[int, str]:
        """(exit status, the end of output and errors); `source`: what it reads. Raises GuestError, NeverReady or
        Interrupted; then the connection is no more."""
        transport = self._client.get_transport()
        if transport is None:
            raise ConnectionLost(f"the connection to {self._name} is lost")
        at_work = _Command(command, source)
        output = b""

        def hear(piece: bytes) -> None:
            nonlocal output
            output = (output + piece)[-_MAX_OUTPUT:]
            if listen is not None:
                listen(piece)

        def look() -> None:
            _check(patience, f"in {self._name}, {command!r} was not done in time")
            if at_work.unread() > _MOST_UNREAD:
                raise GuestError(f"the SSH server of {self._name} sends without being told to go on")

        try:
            status = attend(lambda give: at_work.run(transport, give), look, hear, lambda: cut(transport.sock))
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(f"the connection to {self._name} broke during {command!r}: {error}") from error
        if status == -1:
            raise ConnectionLost(f"the connection to {self._name} ended during {command!r}")
        return status, output.decode("utf-8", "replace")


class _Command:
    """One command on a channel of its own; the part that may wait (see `attended`)."""

    def __init__(self, command: str, source: Path | None) -> None:
        self._command = command
        self._source = source
        self._channel: paramiko.Channel | None = None

    def unread(self) -> int:
        """Bytes that came and that nobody has taken yet."""
        channel = self._channel
        return 0 if channel is None else len(channel.in_buffer)

    def run(self, transport: paramiko.Transport, give: Give) -> int:
        """Exit status; -1 if there is none."""
        self._channel = channel = transport.open_session(timeout=_CONNECT_SECONDS)
        try:
            channel.set_combine_stderr(True)
            channel.settimeout(_PAUSE)
            channel.exec_command(self._command)
            if self._source is not None:
                _feed(channel, self._source)
            while not channel.exit_status_ready():
                _pass_on(channel, give)
            end = time.monotonic() + _REST_SECONDS
            while time.monotonic() < end and _pass_on(channel, give):
                pass
            return channel.recv_exit_status()
        finally:
            self._channel = None
            channel.close()


def _feed(channel: paramiko.Channel, source: Path) -> None:
    """A command that ends before it has read everything says why by its status."""
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            while chunk:
                try:
                    chunk = chunk[channel.send(chunk) :]
                except TimeoutError:
                    continue
                except OSError:
                    return
    channel.shutdown_write()


def _pass_on(channel: paramiko.Channel, give: Give) -> bool:
    """True if something came; waits a moment. At the end of output the exit status is what is waited for."""
    try:
        chunk = channel.recv(_CHUNK)
    except TimeoutError:
        return False
    if chunk:
        give(chunk)
    else:
        channel.status_event.wait(_PAUSE)
    return bool(chunk)


def _client(where: GuestAddress) -> paramiko.SSHClient:
    """Knows exactly one key for exactly one host, and refuses every other."""
    client = paramiko.SSHClient()
    kind, _, rest = where.host_key.partition(" ")
    entry = f"[{where.address}]:{where.ssh_port}" if where.ssh_port != 22 else where.address
    key = paramiko.Ed25519Key(data=base64.b64decode(rest.split()[0])) if rest else None
    if kind != "ssh-ed25519" or key is None:
        raise GuestError(f"no host key is recorded for {where.name}")
    client.get_host_keys().add(entry, kind, key)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    return client
