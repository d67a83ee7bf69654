"""What effects are carried out with: what is the same for every machine, the ports, and who asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.apply.addressing import Addressing
from orchestrator.apply.step_events import Tell
from orchestrator.models.redaction import NOTHING, Redaction
from orchestrator.ports.clock import Clock, Identities
from orchestrator.ports.guest import Guest
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.ports.seed import SeedWriter


@dataclass(frozen=True)
class Installation:
    """What is the same for every machine. Seconds: `shutdown_timeout`, and `agent_grace`, which a guest agent has
    to appear once SSH answers."""

    name: str
    prefix: str
    operator_key: str
    images: Path
    uploads: Path
    secrets: Path
    addressing: Addressing
    shutdown_timeout: float = 60.0
    agent_grace: float = 1.5


@dataclass(frozen=True)
class World:
    """The ports an effect may use."""

    hosts: Mapping[str, Hypervisor]
    guest: Guest
    seeds: SeedWriter
    identities: Identities
    clock: Clock


Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Errand:
    """Whether an effect is still wanted, and who hears how it goes."""

    cancelled: Cancelled
    tell: Tell
    redaction: Redaction = NOTHING
