"""The store: what is wanted and what is being done, written before any effect."""

from orchestrator.store.fence import Fence
from orchestrator.store.lease import Lease
from orchestrator.store.store import Store, open_store

__all__ = ["Fence", "Lease", "Store", "open_store"]
