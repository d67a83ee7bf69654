"""Why nothing may be done before `adopt`, as far as it is known without the hosts."""

from __future__ import annotations

from orchestrator.config.ledger import Ledger
from orchestrator.store import Store
from orchestrator.store.store import Snapshot


def why_store_is_held(store: Store, ledger: Ledger, snapshot: Snapshot) -> str:
    """Empty if nothing stands in the way. Raises StoreError."""
    if snapshot.hold or not ledger.find_newer(snapshot.sets):
        return snapshot.hold
    # A controller may have written the copy of a wish that was committed since the snapshot.
    again = store.snapshot()
    return again.hold or ledger.find_newer(again.sets)
