"""What a fork is given to run so that it becomes who it is: one POSIX shell script.

It holds the machine's private host key, and goes to a shell by a pipe or by standard input only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import shlex
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import SpecError
from orchestrator.render.fork_program import fork_program, fork_values
from orchestrator.render.seed import GuestIdentity, GuestNetwork

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The same names as in templates/identity.sh.
_RUN = "/run/understudy"
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"\\'$`")


@dataclass(frozen=True)
class ForkProgram:
    """templates/identity.sh and the program of its system calls, in one version: a fork goes on from what its
    source was given, which may have been another one."""

    script: str
    calls: bytes = field(default_factory=fork_program)

    @property
    def version(self) -> str:
        return hashlib.sha256(self.calls + self.script.encode()).hexdigest()[:8]

    @property
    def wake(self) -> str:
        """The pipe by which a shell that waits is given its words."""
        return f"{_RUN}.wake.{self.version}"

    @property
    def said(self) -> str:
        """What that shell says: a line when it wakes, what went wrong, and a line when it ends."""
        return f"{_RUN}.said.{self.version}"

    def of(self, address: str) -> str:
        return f"version={self.version}\naddress={address}\ncalls='{escaped(self.calls)}'\n{self.script}"


@dataclass(frozen=True)
class ForkWords:
    """What makes a fork who it is: for the shell that waits in it, and for a new one."""

    instance_id: str
    waiting: str
    new: str


def render_identity(
    program: ForkProgram, identity: GuestIdentity, files: Mapping[str, bytes], now: float, entropy: bytes
) -> ForkWords:
    """`files` are the answer files of the machine's seed, `now` seconds since the epoch. The same values give the
    same words. Raises SpecError if one could not be an identity's."""
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
        "values": fork_values(network, round(now)),
    }
    lines = [f"{name}={shlex.quote(word)}" for name, word in words.items()]
    lines += [f"{name}='{escaped(content)}'" for name, content in contents.items()]
    said = "".join(f"{line}\n" for line in lines)
    return ForkWords(
        identity.instance_id,
        waiting=f"echo woken >&2\n{said}become\nexit\n",
        new=f"{program.of(network.address)}{said}prepare < /dev/null\nbecome < /dev/null\n",
    )


def render_source(program: ForkProgram, network: GuestNetwork, waits: bool) -> str:
    """What the source of a golden image is given to run just before it is taken: so its forks know what to look
    for in its files, have the program and, where it `waits`, a shell for their words."""
    leave = "leave_shell < /dev/null\n" if waits else ""
    return f"{program.of(network.address)}prepare_source < /dev/null\n{leave}"


def render_dismissal() -> str:
    """What the source is given to run once it was taken, or was not: as `dismiss` in templates/identity.sh."""
    pipes = (
        f'for pipe in {_RUN}.wake.*; do [ ! -p "$pipe" ] || {{ echo exit 1<> "$pipe" && rm -f "$pipe"; }}; done'
    )
    return f"rm -f {_RUN}.said.*; {pipes}"


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
