"""What a guest says about its first boot: cloud-init's result.json. Guests are not trusted."""

from __future__ import annotations

import json

RESULT_FILE = "/run/cloud-init/result.json"
"""Written at the end of every boot, on a file system that no boot outlives."""
OUTPUT_FILE = "/var/log/cloud-init-output.log"
TAIL_SIZE = 2000
CONSOLE_PROMISE = "understudy: result to follow"
"""What a guest shows on its serial console as it boots, if it will tell the result there."""
CONSOLE_MARK = "understudy: result of"
"""Begins that line, before the instance-id and the content of result.json."""


def setup_errors(result: str) -> list[str]:
    """The errors that a result.json names; empty: setup ended well."""
    try:
        errors = json.loads(result)["v1"]["errors"]
        return [plain(str(error))[:500] for error in errors][:20]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [f"the setup result is not readable: {plain(result)[:200]}"]


def told_on_console(text: str, instance_id: str) -> str | None:
    """The last result that a guest has told on its console, if any.

    That of this instance-id only: other lines may be an operator's script's. One cut short is no JSON.
    """
    mark = f"{CONSOLE_MARK} {instance_id} "
    told = [line.partition(mark)[2] for line in text.splitlines() if mark in line]
    return told[-1] if told else None


def plain(text: str) -> str:
    """No control characters that would reach a terminal or a log."""
    return "".join(char for char in text if char.isprintable() or char == "\n")


def failure(name: str, errors: list[str], tail: str) -> str:
    """The words of a SetupFailed."""
    return f"setup of {name} failed: {'; '.join(errors)}\n{plain(tail)[-TAIL_SIZE:]}".strip()
