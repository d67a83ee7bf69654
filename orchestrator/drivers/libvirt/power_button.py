"""Asking a guest to switch itself off, and when a machine may be switched off at all."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import libvirt

_ASK_AGAIN = 5.0  # seconds after which a guest that did not hear is asked again
_STARTUP = 10.0  # seconds within which QEMU is up, or was given up
_LOOK = 0.02
_STARTING_UP = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP]


def await_startup(domain: Any) -> None:
    """Until nobody starts it any more, 10 s at most: a call that starts it goes on in libvirtd when whoever made
    it is dead, and libvirtd 9.0 may crash if the machine is destroyed in the middle of that."""
    end = time.monotonic() + _STARTUP
    while domain.state() == _STARTING_UP and time.monotonic() < end:
        time.sleep(_LOOK)


class PowerButton:
    """Asks in a thread of its own: libvirt passes the wish on to QEMU and waits for its answer, and a QEMU that
    hangs gives none until it is killed."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self._ask_at = 0.0
        self._asking: threading.Thread | None = None

    def press(self) -> None:
        """At most every 5 s, and not while the wish before is not passed on yet."""
        now = time.monotonic()
        if now < self._ask_at or (self._asking is not None and self._asking.is_alive()):
            return
        self._ask_at = now + _ASK_AGAIN
        self._asking = threading.Thread(target=self._ask, name="power-button", daemon=True)
        self._asking.start()

    def _ask(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._domain.shutdown()
