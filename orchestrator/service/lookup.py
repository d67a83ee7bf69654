"""What is declared, looked up by whoever only looks."""

from __future__ import annotations

from orchestrator.errors import NotFound
from orchestrator.models.members import Image, ScaleSet
from orchestrator.store import Store


def get_set(store: Store, name: str) -> ScaleSet:
    """Raises NotFound."""
    found = store.find_set(name)
    if found is None:
        known = ", ".join(one.name for one in store.snapshot().sets) or "none"
        raise NotFound(f"there is no scale set {name!r}", f"sets: {known}")
    return found


def find_newer_image(store: Store, wanted: ScaleSet) -> Image | None:
    """The version that applying the same file would roll out; None if that is the one the set has."""
    newest = store.find_image(wanted.spec.image)
    return newest if newest is not None and newest.version > wanted.image.version else None
