"""The parts of an audit, put together."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.rooms import DirectoryRooms
from orchestrator.daemon.runtime import Runtime
from orchestrator.drivers.haproxy.strays import HaproxyProcesses
from orchestrator.drivers.libvirt.stock import LibvirtStock
from orchestrator.ports.stock import Stockroom
from orchestrator.service.audit import Audit, AuditParts, OnProgress


def open_audit(runtime: Runtime, tell: OnProgress) -> Audit:
    """Raises StoreError."""
    runtime.paths.ensure()
    settings = runtime.settings
    network = settings.network.name if settings.network.mode == "network" else ""
    rooms: dict[str, Stockroom] = {
        host.name: LibvirtStock(
            host.name, settings.prefix, runtime.connections[host.name], runtime.volumes[host.name], network
        )
        for host in settings.hosts
    }
    parts = AuditParts(
        store=runtime.store,
        lease=runtime.lease,
        clock=runtime.clock,
        look=runtime.lookout.look,
        hosts=runtime.hosts,
        stockrooms=rooms,
        balancer=runtime.balancer,
        processes=HaproxyProcesses(Path(runtime.paths.haproxy)),
        rooms=DirectoryRooms(runtime.paths),
        ledger=runtime.ledger,
        prefix=settings.prefix,
        limits=runtime.limits,
    )
    return Audit(parts, tell)
