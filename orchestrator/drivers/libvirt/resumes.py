"""Starting a machine again: from its saved memory where it has one, by a boot where that cannot be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.domains import unless_active

log = logging.getLogger("understudy.libvirt")

_TRIES = 3  # what keeps a guest from going on where it was may pass: memory is short, a lock is held


class Resumes:
    """Counts, for each domain, how often in a row it could not go on."""

    def __init__(self) -> None:
        self._failed: Counter[str] = Counter()

    def start(self, domain: Any, explain: Callable[[], None]) -> None:
        """`explain` is called when it could not be started, and may raise what explains it. Raises
        libvirtError."""
        name = domain.name()
        try:
            unless_active(domain, domain.create)
        except libvirt.libvirtError as error:
            explain()
            if not domain.hasManagedSaveImage():
                raise
            self._failed[name] += 1
            if self._failed[name] < _TRIES:
                raise
            # A memory image that cannot be read costs the memory, not the machine.
            log.warning("%s cannot go on where it was hibernated, and boots: %s", name, error)
            domain.managedSaveRemove()
            unless_active(domain, domain.create)
        self._failed.pop(name, None)
