"""Golden images as `image list --golden` shows them. Pure: records and what the hosts have in, plain data out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.models.golden import GoldenImage
from orchestrator.models.members import Image, Member, ScaleSet


def golden_rows(
    goldens: Mapping[str, Iterable[GoldenImage]],
    sets: Iterable[ScaleSet],
    members: Iterable[Member],
    images: Iterable[Image],
    now: float,
) -> list[dict[str, Any]]:
    """`goldens` by host. `sets`: whose machines are, or still are, of the model; sizes are bytes, ages seconds."""
    names: dict[str, set[str]] = {}
    for wanted in sets:
        names.setdefault(wanted.model, set()).add(wanted.name)
    for member in members:
        names.setdefault(member.model, set()).add(member.set_name)
    refs = {image.digest: image.ref for image in images}
    return [
        {
            "host": host,
            "model": one.model,
            "sets": sorted(names.get(one.model, ())),
            "image": refs.get(one.image, ""),
            "source": one.source,
            "disk": one.disk,
            "memory": one.memory,
            "created_at": one.created_at,
            "age": max(now - one.created_at, 0.0),
        }
        for host, found in goldens.items()
        for one in found
    ]
