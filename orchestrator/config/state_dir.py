"""Which state directory is meant where none is given. Loads next to nothing: every command asks."""

from __future__ import annotations

import os

# Below the state directory: sockets of processes that run commands for others.
COMMAND_SOCKETS = "private/commands"


def default_state_dir() -> str:
    """`UNDERSTUDY_STATE_DIR`, else /var/lib/understudy for root, else the XDG data folder."""
    if chosen := os.environ.get("UNDERSTUDY_STATE_DIR"):
        return chosen
    if os.geteuid() == 0:
        return "/var/lib/understudy"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111 - slow to load
    return f"{data}/understudy"
