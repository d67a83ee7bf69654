"""What the load balancer should look like, as one value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from json import dumps
from typing import Literal

from orchestrator.models.sightings import Rotation


@dataclass(frozen=True)
class HealthCheck:
    """HAProxy's own check of a server: HTTP when `path` is set, else a TCP connect. `interval` in seconds."""

    path: str = ""
    status: int = 200
    interval: float = 1.0
    failures: int = 3


@dataclass(frozen=True)
class Server:
    """One machine behind a frontend, at an address the balancer can reach.

    `is_proven`: its readiness probes passed a moment ago. It only matters when the server enters rotation, and is
    no part of what the configuration is.
    """

    member: str
    address: str
    port: int
    state: Rotation
    is_proven: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Frontend:
    """One endpoint: a listening socket and the servers behind it. `name` is also the backend's."""

    name: str
    protocol: Literal["http", "tcp"]
    address: str
    listen: int
    check: HealthCheck
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True)
class BalancerConfig:
    """All frontends, sorted by name; equal values mean equal configurations."""

    frontends: tuple[Frontend, ...] = ()

    def digest(self) -> str:
        """12 hex digits; the configuration file carries them, so that file and wish can be compared."""
        return hashlib.sha256(dumps(self, default=_compared, sort_keys=True).encode()).hexdigest()[:12]

    def server_states(self) -> dict[tuple[str, str], Rotation]:
        """(backend, member) -> state, as `BalancerSighting.servers` is keyed."""
        return {(front.name, server.member): server.state for front in self.frontends for server in front.servers}


def _compared(value: object) -> dict[str, object]:
    """What makes two of them equal."""
    return {name: one for name, one in vars(value).items() if name != "is_proven"}
