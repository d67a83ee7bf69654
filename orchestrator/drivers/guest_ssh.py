"""A shell in a guest over SSH (paramiko), its host key strictly checked."""

from __future__ import annotations

import base64
import contextlib
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import paramiko

from orchestrator.drivers import probes
from orchestrator.errors import ConnectionLost, GuestError, Interrupted, NeverReady, SetupFailed, UnderstudyError
from orchestrator.lifecycle.telling import tell_script
from orchestrator.models.members import GuestPhase
from orchestrator.models.setup_result import OUTPUT_FILE, RESULT_FILE, TAIL_SIZE, failure, plain, setup_errors
from orchestrator.ports.guest import GuestAddress, Listen, Patience

_CONNECT_SECONDS = 60.0  # an emulated guest that boots takes its time over a key exchange
_PAUSE = 0.1
_LOGIN_PAUSE = 0.5
_MAX_OUTPUT = 64 * 1024
_CHUNK = 32 * 1024
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
    while True:
        connection = probes.open_ssh(where.address, where.ssh_port, patience)
        client = _client(where)
        try:
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
            )
            return SshShell(client, where.name)
        except (paramiko.SSHException, OSError, EOFError) as error:
            # Early in boot the server may run before the keys are in place: that passes by itself.
            client.close()
            connection.close()
            last = str(error) or type(error).__name__
        if time.monotonic() >= patience.deadline:
            raise GuestError(f"cannot log in to {where.name} on {where.address}:{where.ssh_port}: {last}")
        probes.rest(patience, _LOGIN_PAUSE)


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
        self._client.close()

    def _execute(
        self, command: str, patience: Patience, listen: Listen | None = None, source: Path | None = None
    ) -> tuple[int, str]:
        """(exit status, output and errors); `source`: what it reads. Raises GuestError or NeverReady."""
        try:
            transport = self._client.get_transport()
            if transport is None:
                raise ConnectionLost(f"the connection to {self._name} is lost")
            channel = transport.open_session(timeout=_CONNECT_SECONDS)
            channel.set_combine_stderr(True)
            channel.settimeout(_PAUSE)
            channel.exec_command(command)
            if source is not None:
                self._feed(channel, source, command, patience)
            output = b""
            while not channel.exit_status_ready() or channel.recv_ready():
                output = (output + _heard(_receive(channel), listen))[-_MAX_OUTPUT:]
                self._check(command, patience)
            output = (output + _heard(_drain(channel), listen))[-_MAX_OUTPUT:]
            status = channel.recv_exit_status()
            if status == -1:
                raise ConnectionLost(f"the connection to {self._name} ended during {command!r}")
            return status, output.decode("utf-8", "replace")
        except UnderstudyError:
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(f"the connection to {self._name} broke during {command!r}: {error}") from error

    def _feed(self, channel: paramiko.Channel, source: Path, command: str, patience: Patience) -> None:
        """A command that ends before it has read everything says why by its status."""
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                while chunk:
                    self._check(command, patience)
                    try:
                        chunk = chunk[channel.send(chunk) :]
                    except TimeoutError:
                        continue
                    except OSError:
                        return
        channel.shutdown_write()

    def _check(self, command: str, patience: Patience) -> None:
        if patience.is_cancelled():
            raise Interrupted(command)
        if time.monotonic() >= patience.deadline:
            raise NeverReady(f"in {self._name}, {command!r} was not done in time")


def _heard(chunk: bytes, listen: Listen | None) -> bytes:
    if listen is not None:
        listen(chunk)
    return chunk


def _receive(channel: paramiko.Channel) -> bytes:
    """What has come; waits a moment. At the end of output the exit status is what is waited for."""
    try:
        chunk = channel.recv(32768)
    except TimeoutError:
        return b""
    if not chunk:
        channel.status_event.wait(_PAUSE)
    return chunk


def _drain(channel: paramiko.Channel) -> bytes:
    rest = b""
    with contextlib.suppress(TimeoutError):
        while chunk := channel.recv(32768):
            rest += chunk
    return rest


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
