"""`understudy serve`: the controller as a long-running process."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

from orchestrator.daemon.loaded_commands import LoadedCommands
from orchestrator.daemon.runtime import Runtime
from orchestrator.daemon.wake import Doorbell

log = logging.getLogger("understudy.serve")


def serve(runtime: Runtime, on_ready: Callable[[], None]) -> None:
    """Converge until SIGTERM or SIGINT. While another controller lives, wait for its end and take over."""
    controller = runtime.controller()
    announced = threading.Event()
    commands = LoadedCommands(runtime.paths.command_sockets)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        controller.stop()

    def after_turn() -> None:
        if not announced.is_set() and runtime.lease.find_other_holder() is None:
            announced.set()
            on_ready()
        if announced.is_set():
            commands.ensure()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    bell = Doorbell(runtime.paths.doorbells, controller.wake)
    try:
        controller.run(after_turn)
    finally:
        bell.close()
        runtime.close()
        commands.close()
    log.info("controller stopped; machines and load balancer go on as they are")
