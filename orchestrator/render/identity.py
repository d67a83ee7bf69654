"""What a fork is given to run so that it becomes who it is: one POSIX shell script.

It holds the machine's private host key, and goes to the guest agent's shell by standard input only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import shlex
import uuid
from collections.abc import Mapping

from orchestrator.errors import SpecError
from orchestrator.render.fork_program import fork_program
from orchestrator.render.seed import GuestIdentity, GuestNetwork

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The same names as in templates/identity.sh.
_SOURCE, _PROGRAM = "/run/understudy.source", "/etc/understudy.fork"
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"\\'$`")


def render_identity(
    program: str, identity: GuestIdentity, files: Mapping[str, bytes], now: float, entropy: bytes
) -> str:
    """`program` is templates/identity.sh, `files` are the answer files of the machine's seed, `now` seconds since
    the epoch. The same values give the same script. Raises SpecError if one could not be an identity's."""
    _check(identity)
    network = identity.network
    words = {
        "instance": identity.instance_id,
        "name": identity.name,
        "mac": network.mac,
        "address": network.address,
        "machine_id": identity.instance_id.replace("-", ""),
        "boot_id": str(uuid.UUID(bytes=hashlib.sha256(b"boot id" + entropy).digest()[:16], version=4)),
        "entropy": entropy.hex(),
        "resolvers": " ".join(network.nameservers),
    }
    contents = {
        "host_key": identity.host_key_private.encode(),
        "host_key_public": identity.host_key_public.strip().encode(),
        "meta_data": files["meta-data"],
        "user_data": files["user-data"],
        "vendor_data": files["vendor-data"],
        "network_config": files["network-config"],
        "calls": fork_program(network, round(now)),
    }
    lines = [f"{name}={shlex.quote(word)}" for name, word in words.items()]
    lines += [f"{name}='{escaped(content)}'" for name, content in contents.items()]
    return "\n".join([*lines, program])


def render_source(network: GuestNetwork) -> str:
    """What the source of a golden image is given to run just before it is taken: so its forks know what to look
    for in its files, and have a file that may be executed. What is on the disk already, no fork writes again.
    """
    return f"echo {network.address} > {_SOURCE}; : > {_PROGRAM}; chmod 700 {_PROGRAM}; sync"


def without_comments(program: str) -> str:
    """A shell script whose comments stand on lines of their own; an emulated guest reads it letter by letter."""
    lines = (line.strip() for line in program.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


def escaped(content: bytes) -> str:
    """As `printf %b` reads it, and with nothing in it that means something between single quotes."""
    return "".join(chr(byte) if byte in _PLAIN else _escape(byte) for byte in content)


def _escape(byte: int) -> str:
    return "\\n" if byte == 0x0A else f"\\0{byte:03o}"


def _check(identity: GuestIdentity) -> None:
    """These become parts of file names and of patterns in the guest."""
    network = identity.network
    shapes = ((_NAME, identity.name), (_MAC, network.mac), (_UUID, identity.instance_id))
    for shape, word in shapes:
        if not shape.fullmatch(word):
            raise SpecError(f"{word!r} cannot be part of a machine's identity")
    try:
        ipaddress.IPv4Interface(network.address)
        if network.gateway:
            ipaddress.IPv4Address(network.gateway)
    except ValueError as error:
        raise SpecError(f"{identity.name} cannot be given this address: {error}") from error
