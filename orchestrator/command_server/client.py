"""The start of every command: hands itself to a command server where there is one, else returns.

What only a handover needs is loaded with `handover`: most of this is paid by commands that are never handed over.
"""

from __future__ import annotations

import os

from orchestrator.command_server.invocation import find_state_dir
from orchestrator.config.state_dir import COMMAND_SOCKETS


def run_at_server(argv: list[str]) -> None:
    """Ends this process as the command ended, if a server ran it; returns if none did, and nothing was begun."""
    state_dir = find_state_dir(argv[1:])
    if state_dir is None or "" in os.environ:  # a name that no process can give to another in Python
        return
    directory = f"{state_dir}/{COMMAND_SOCKETS}"
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".sock"))  # noqa: PTH208
    except OSError:
        return
    if names:
        from orchestrator.command_server.handover import hand_over

        hand_over(argv, [f"{directory}/{name}" for name in names])
