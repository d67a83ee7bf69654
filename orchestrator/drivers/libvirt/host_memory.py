"""How much memory a host has, and how much of it is free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libvirt


@dataclass(frozen=True)
class HostMemory:
    """Bytes. `available`: free memory and what the page cache would give up."""

    total: int
    available: int


def read_memory(connection: Any) -> HostMemory:
    """As the kernel has it now; the node information that libvirtd caches does not follow a balloon."""
    stats = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    available = sum(int(stats.get(key, 0)) for key in ("free", "buffers", "cached"))
    return HostMemory(int(stats["total"]) * 1024, available * 1024)
