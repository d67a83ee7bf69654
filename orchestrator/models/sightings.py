"""What one look at the world saw. Unknown is never the same as absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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
    """One domain that carries our owner tag. `rebooted`: its guest restarted since the last look."""

    domain: str
    member: str
    incarnation: int
    power: Power
    rebooted: bool = False


@dataclass(frozen=True)
class HostSighting:
    """One host. `answers` False means everything on it is unknown. Memory is bytes."""

    name: str
    zone: str
    answers: bool
    reason: str = ""
    memory_total: int = 0
    memory_free: int = 0
    cpus: int = 0
    machines: Mapping[str, MachineSighting] = field(default_factory=dict)  # by domain name


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
    """The world at one moment. `silent`: members that do not pass a readiness probe the balancer does not ask."""

    hosts: Mapping[str, HostSighting]
    balancer: BalancerSighting
    silent: frozenset[str] = frozenset()
