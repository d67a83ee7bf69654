"""The QEMU guest agent of a domain, by way of libvirt."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from orchestrator.drivers.libvirt.guest_text import printable
from orchestrator.errors import AgentAbsent, GuestError

_AGENT_SECONDS = 5  # an agent that takes longer is none
_AGENT_WORDS = 500  # characters of what it says of a failure
_NO_AGENT = (
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
)


def ask_agent(domain: Any, command: str, arguments: Mapping[str, object]) -> object:
    """What the command returned. Raises AgentAbsent if there is none, or it does not answer; GuestError for what
    it refuses."""
    request = json.dumps({"execute": command, "arguments": dict(arguments)})
    try:
        answer = libvirt_qemu.qemuAgentCommand(domain, request, _AGENT_SECONDS, 0)
    except libvirt.libvirtError as error:
        kind = AgentAbsent if error.get_error_code() in _NO_AGENT else GuestError
        # It may quote the agent.
        words = printable(error.get_error_message())[:_AGENT_WORDS]
        raise kind(f"the agent of {domain.name()!r}: {words}") from error
    return _returned(answer)


def agent_socket(domain: str) -> Path:
    """The guest agent's socket in a user's own libvirt: the path that libvirt would choose lies below the home
    directory and easily exceeds the 107 bytes of unix(7)."""
    base = os.environ.get("XDG_RUNTIME_DIR") or str(Path.home() / ".cache")
    return Path(base) / "libvirt" / f"us-{hashlib.sha256(domain.encode()).hexdigest()[:10]}.agent"


def _returned(answer: str) -> object:
    try:
        return json.loads(answer)["return"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GuestError("the guest agent's answer is not understood") from error
