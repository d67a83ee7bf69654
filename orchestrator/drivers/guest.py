"""The Guest port: probes from outside, and a shell over SSH."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.drivers import probes
from orchestrator.errors import GuestError, NeverReady, SetupFailed
from orchestrator.models.spec import Probe
from orchestrator.ports.guest import GuestAddress, GuestShell, Patience

_COMMAND_PAUSE = 0.1


class NetworkGuest:
    """`operator_key` is the private key file."""

    def __init__(self, operator_key: Path) -> None:
        self._key_file = operator_key

    def open_shell(self, where: GuestAddress, patience: Patience) -> GuestShell:
        # Loaded here, while the guest boots: a claim that asks no guest by SSH does not pay for it.
        from orchestrator.drivers.guest_ssh import log_in

        return log_in(self._key_file, where, patience)

    def await_ssh(self, where: GuestAddress, patience: Patience) -> None:
        probes.open_ssh(where.address, where.ssh_port, patience).close()

    def await_answer(self, probe: Probe, where: GuestAddress, port: int, patience: Patience) -> None:
        if probe.http is not None:
            probes.await_http(where.address, port, probe.http, patience)
        elif probe.tcp is not None:
            probes.await_tcp(where.address, port, patience)
        elif probe.command is not None:
            self._await_command(probe, probe.command, where, patience)

    def _await_command(self, probe: Probe, command: str, where: GuestAddress, patience: Patience) -> None:
        shell = self.open_shell(where, patience)
        try:
            while True:
                try:
                    shell.run(command, patience)
                    return
                except SetupFailed:
                    raise
                except GuestError as error:
                    if time.monotonic() >= patience.deadline:
                        raise NeverReady(error.message) from error
                probes.rest(patience, max(probe.interval / 5, _COMMAND_PAUSE))
        finally:
            shell.close()
