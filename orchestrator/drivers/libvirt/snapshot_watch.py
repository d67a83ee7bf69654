"""Ends a snapshot that is no longer wanted, or does not come to its end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import libvirt

from orchestrator.errors import GoldenUnusable, Interrupted

_SECONDS = 60.0  # that the memory of a machine may take to be written
_LOOK = 0.01  # a small guest's memory is written in a tenth of a second


class SnapshotWatch:
    """Around the call that takes it. A guest that writes its memory faster than the host does would go on for
    ever; what libvirt raises for a job that was ended becomes GoldenUnusable, or Interrupted once `cancelled`."""

    def __init__(self, domain: Any, cancelled: Callable[[], bool], seconds: float = _SECONDS) -> None:
        self._domain = domain
        self._cancelled = cancelled
        self._seconds = seconds
        self._is_over = threading.Event()
        self._why: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="snapshot", daemon=True)

    def __enter__(self) -> None:
        if self._cancelled():
            raise self._interrupted()
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        if self._why is not None and isinstance(error, libvirt.libvirtError):
            raise self._why from error

    def _watch(self) -> None:
        end = time.monotonic() + self._seconds
        while not self._is_over.wait(_LOOK):
            if self._cancelled():
                self._why = self._interrupted()
            elif time.monotonic() >= end:
                self._why = GoldenUnusable(
                    f"the memory of {self._domain.name()!r} was not written within {self._seconds:g} s"
                )
            if self._why is not None:
                # Not yet begun, or over: asked again until it is over.
                with contextlib.suppress(libvirt.libvirtError):
                    self._domain.abortJob()

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"no golden image is taken of {self._domain.name()!r} now")
