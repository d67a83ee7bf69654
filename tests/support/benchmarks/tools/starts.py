"""When domains start, by libvirt's own events: the same for all tools, and without asking over and over."""

from __future__ import annotations

import threading
import time
from typing import Any

import libvirt


class Starts:
    """Counts domains that started, from `begin` on."""

    _loop: threading.Thread | None = None

    def __init__(self, uri: str) -> None:
        if Starts._loop is None:
            libvirt.virEventRegisterDefaultImpl()
            Starts._loop = threading.Thread(target=_run_events, daemon=True)
            Starts._loop.start()
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}
        self._connection = libvirt.open(uri)
        kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self._number = self._connection.domainEventRegisterAny(None, kind, self._happened, None)

    def begin(self) -> None:
        with self._lock:
            self._seen.clear()

    def moment(self, count: int) -> float | None:
        """The monotonic clock when the last of `count` domains had started; None if fewer have."""
        with self._lock:
            return sorted(self._seen.values())[count - 1] if len(self._seen) >= count else None

    def close(self) -> None:
        self._connection.domainEventDeregisterAny(self._number)
        self._connection.close()

    def _happened(self, _: Any, domain: libvirt.virDomain, event: int, *more: Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            with self._lock:
                self._seen.setdefault(domain.name(), time.monotonic())


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
