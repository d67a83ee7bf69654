"""What a controller works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.apply.executor import Executor
from orchestrator.config.ledger import Ledger
from orchestrator.ports.balancer import Balancer
from orchestrator.ports.clock import Clock
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.reconcile.lookout import LOOK_DEADLINE
from orchestrator.store import Fence, Lease, Store
from orchestrator.store.records import Recorder

TROUBLE_PAUSE = 2.0
"""Seconds before what just failed is tried again."""


@dataclass(frozen=True)
class ControllerParts:
    """`look_deadline`: seconds that a host has to answer."""

    store: Store
    recorder: Recorder
    executor: Executor
    hosts: Mapping[str, Hypervisor]
    balancer: Balancer
    lease: Lease
    fence: Fence
    clock: Clock
    look_deadline: float = LOOK_DEADLINE
    ledger: Ledger | None = None
