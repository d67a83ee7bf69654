"""Which invocations may be handed to a command server, and to whose."""

from __future__ import annotations

from orchestrator.config.state_dir import default_state_dir

# Short commands that neither take the terminal nor start long work of their own.
SERVED = frozenset(
    {
        "apply",
        "cost",
        "delete",
        "events",
        "pool",
        "redeploy",
        "reimage",
        "remove",
        "restart",
        "scale",
        "start",
        "status",
        "stop",
    }
)
# Files that are others, or not there, in another process.
_OF_THIS_PROCESS = ("/dev/fd/", "/proc/", "/dev/tty")


def find_state_dir(arguments: list[str]) -> str | None:
    """State directory of an invocation (`arguments` without the program) that may be handed over, else None.

    Only what is certain: a global option that is not known here leaves the invocation where it is.
    """
    if any(mark in argument for argument in arguments for mark in _OF_THIS_PROCESS):
        return None
    chosen = None
    rest = iter(arguments)
    for argument in rest:
        if argument == "--state-dir":
            chosen = next(rest, None)
        elif argument.startswith("--state-dir="):
            chosen = argument.partition("=")[2]
        elif argument not in ("-v", "--verbose"):
            return (chosen or default_state_dir()) if argument in SERVED else None
    return None
