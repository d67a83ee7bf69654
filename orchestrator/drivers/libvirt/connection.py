"""One connection to one libvirtd: opened on first use, opened again by itself, with its events.

libvirt's event loop runs in one thread of the process, shared by all connections.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.errors import from_libvirt
from orchestrator.errors import HostUnreachable

_CLOSE_SECONDS = 1.0
_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def _ensure_event_loop() -> None:
    global _loop
    with _loop_lock:
        if _loop is not None:
            return
        # libvirt prints errors to stderr unless told otherwise; ours carry them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        _loop = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
        _loop.start()


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class LibvirtConnection:
    """Thread-safe. `get()` gives a live `virConnect`; a broken one is replaced on the next call."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._connection: Any = None
        self._watchers: list[Callable[[Any, str], None]] = []
        self._lost: list[Callable[[], None]] = []

    @property
    def is_privileged(self) -> bool:
        """False for a user's own libvirtd."""
        return "/session" not in self.uri

    def get(self) -> Any:
        """Raises HostUnreachable with the fix."""
        with self._lock:
            if self._connection is not None and self._is_alive():
                return self._connection
            self._drop()
            _ensure_event_loop()
            try:
                self._connection = libvirt.open(self.uri)
                self._prepare()
            except libvirt.libvirtError as error:
                self._drop()
                words = from_libvirt(error, f"cannot reach libvirt at {self.uri}").message
                raise HostUnreachable(words, "is libvirtd running? (run: understudy doctor)") from error
            return self._connection

    def watch(self, on_event: Callable[[Any, str], None], on_lost: Callable[[], None]) -> None:
        """`on_event(domain, what)` with `what` in lifecycle, reboot, agent; survives reconnection."""
        self._watchers.append(on_event)
        self._lost.append(on_lost)

    def close(self) -> None:
        # Opening may hang in another thread; whoever closes does not hang with it.
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _is_alive(self) -> bool:
        try:
            return bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def _prepare(self) -> None:
        connection = self._connection
        # Drivers without a socket between them and us (test:///) know neither keepalive nor closing.
        with contextlib.suppress(libvirt.libvirtError):
            connection.setKeepAlive(5, 3)
        with contextlib.suppress(libvirt.libvirtError):
            connection.registerCloseCallback(self._on_close, None)
        for event, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._on_agent),
        ):
            connection.domainEventRegisterAny(None, event, callback, None)

    def _on_lifecycle(self, _connection: Any, domain: Any, _event: int, _detail: int, _opaque: Any) -> None:
        self._tell(domain, "lifecycle")

    def _on_reboot(self, _connection: Any, domain: Any, _opaque: Any) -> None:
        self._tell(domain, "reboot")

    def _on_agent(self, _connection: Any, domain: Any, _state: int, _reason: int, _opaque: Any) -> None:
        self._tell(domain, "agent")

    def _tell(self, domain: Any, what: str) -> None:
        for watcher in self._watchers:
            watcher(domain, what)

    def _on_close(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        for lost in self._lost:
            lost()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.unregisterCloseCallback()
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()
