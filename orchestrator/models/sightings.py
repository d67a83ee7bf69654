"""What one look at the world saw. Unknown is never the same as absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Power(StrEnum):
    """A member's machine, as its host reports it."""

    RUNNING = "running"
    STOPPED = "stopped"
    HIBERNATED = "hibernated"  # off, its memory saved
    CRASHED = "crashed"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the host did not answer


@dataclass(frozen=True)
class MachineSighting:
    """One domain that carries our owner tag. `rebooted`: its guest restarted since the last look.
    `halted`: it runs, but was paused because its host could not write its disk. `forked`: its body went on from a
    golden image."""

    domain: str
    member: str
    incarnation: int
    power: Power
    rebooted: bool = False
    halted: bool = False
    forked: bool = False


@dataclass(frozen=True)
class HostSighting:
    """One host. `answers` False means everything on it is unknown. Memory is bytes. `goldens`: models of which it
    has a complete golden image; `golden_remnants`: others of which it has parts. `emulates`: whether its guests
    are emulated; None: nobody knows yet.
    """

    name: str
    zone: str
    answers: bool
    reason: str = ""
    memory_total: int = 0
    memory_free: int = 0
    cpus: int = 0
    emulates: bool | None = False
    machines: Mapping[str, MachineSighting] = field(default_factory=dict)  # by domain name
    goldens: frozenset[str] = frozenset()
    golden_remnants: frozenset[str] = frozenset()


class Rotation(StrEnum):
    """Administrative state of one server in HAProxy."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True)
class ServerSighting:
    """One server line: administrative state, whether HAProxy finds it healthy, sessions under way."""

    state: Rotation
    is_up: bool
    sessions: int


@dataclass(frozen=True)
class BalancerSighting:
    """The load balancer: is it running, the digest of its configuration, its servers.

    `trouble` is why it could not be changed the last time.
    """

    running: bool
    digest: str = ""
    servers: Mapping[tuple[str, str], ServerSighting] = field(default_factory=dict)  # (backend, member)
    trouble: str = ""


@dataclass(frozen=True)
class Observed:
    """The world at one moment. `silent`: members that do not pass a readiness probe the balancer does not ask.
    `troubled`: members whose host failed twice to do what is due, with its words."""

    hosts: Mapping[str, HostSighting]
    balancer: BalancerSighting
    silent: frozenset[str] = frozenset()
    troubled: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def halted(self) -> frozenset[str]:
        """Members whose machine is paused because its disk cannot be written."""
        machines = (seen for host in self.hosts.values() for seen in host.machines.values())
        return frozenset(seen.member for seen in machines if seen.halted)
