"""A controller that kills itself: the product's own parts, with a fuse in every call that changes something.

`python -m tests.support.crash ROOT TRIED OPERATION ARGUMENT...` carries an operation out in a process that sends
itself SIGKILL at the first kill point whose kind TRIED (a file of lines) does not name yet, and carries it out
again in a new one, until one comes to the end. Prints as JSON the kinds, in the order in which they killed, and
after which of them HAProxy had a server ready whose machine did not run.

Kinds: `libvirt.CLASS.CALL`, `haproxy.COMMAND`, `host.CALL`, `balancer.CALL`, `store.CALL`, `ledger.CALL`, each
`before`, `during` (10 ms after it began, unless it has returned by then) or `after`; and for each operation
`OPERATION/STEP`, after every record and effect. Which calls there are is derived: see `kill_points`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import event

from orchestrator.config.ledger import Ledger
from orchestrator.config.paths import StatePaths
from orchestrator.config.scaleset_file import load_scale_sets
from orchestrator.config.settings import load_settings
from orchestrator.config.uploads import pack_uploads
from orchestrator.daemon.embedded import carry_out
from orchestrator.daemon.runtime import Runtime
from orchestrator.drivers.haproxy import HaproxyBalancer
from orchestrator.drivers.haproxy.runtime import RuntimeApi
from orchestrator.drivers.libvirt import LibvirtConnection
from orchestrator.models.members import Phase
from orchestrator.reconcile.controller import Controller
from orchestrator.reconcile.parts import ControllerParts
from orchestrator.service import declare, members
from orchestrator.store.records import Recorder
from tests.support.kill_points import HOST_CALLS, READING, WRAPPED
from tests.support.servers import ready_servers

_DURING = 0.01  # seconds
_ATTEMPT_SECONDS = 100  # after which an operation that does not end is a failure
_MOST_ATTEMPTS = 150

_STORE_CALLS = frozenset({"declare_set", "mark_deleting", "request", "touch_set", "note", "write_fact"})
_COMMANDS = ("add server", "enable health", "set server", "set weight", "del server", "shutdown sessions")


class Fuse:
    """Kills its process at a kind of point that was not tried before. Thread-safe."""

    during = _DURING

    def __init__(self, tried: Path, operation: str) -> None:
        self._file = tried
        self._known = set(tried.read_text(encoding="utf-8").splitlines())
        self._operation = operation
        self._lock = threading.Lock()

    def burn(self, kind: str) -> None:
        with self._lock:
            if kind not in self._known:
                self._blow(kind)

    def step(self, name: str) -> None:
        self.burn(f"{self._operation}/{name}")

    def known(self) -> frozenset[str]:
        return frozenset(self._known)

    def around(self, kind: str, call: Callable[[], Any]) -> Any:
        """The call, with a kill point before it, after it and, if it takes its time, in the middle of it."""
        self.burn(f"{kind} before")
        inside = f"{kind} during"
        result = call() if inside in self._known else self._with_one_inside(inside, call)
        self.burn(f"{kind} after")
        return result

    def _with_one_inside(self, kind: str, call: Callable[[], Any]) -> Any:
        """Nothing is killed in a call that has returned: whether it has is asked under the lock that kills."""
        has_returned = False

        def strike() -> None:
            with self._lock:
                if not has_returned:
                    self._blow(kind)

        timer = threading.Timer(self.during, strike)
        timer.daemon = True
        timer.start()
        try:
            return call()
        finally:
            timer.cancel()
            with self._lock:
                has_returned = True

    def _blow(self, kind: str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{kind}\n")
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal comes before this ends


class Wired:
    """Passes everything on to `target`, with a fuse around the calls that are named."""

    def __init__(self, target: Any, layer: str, fuse: Fuse, calls: frozenset[str]) -> None:
        self._target = target
        self._wiring = (layer, fuse, calls)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        layer, fuse, calls = self._wiring
        if name not in calls:
            return found
        return lambda *words, **named: fuse.around(f"{layer}.{name}", lambda: found(*words, **named))


class WiredHost(Wired):
    @property
    def disks(self) -> Wired:
        layer, fuse, calls = self._wiring
        return Wired(self._target.disks, layer, fuse, calls)


class WiredLibvirt:
    """An object of libvirt; so is everything that its calls return."""

    def __init__(self, target: Any, fuse: Fuse) -> None:
        self._target = target
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*words: Any) -> Any:
            bare = [word._target if isinstance(word, WiredLibvirt) else word for word in words]
            if name in READING:
                return self._wire(found(*bare))
            kind = f"libvirt.{type(self._target).__name__}.{name}"
            return self._wire(self._fuse.around(kind, lambda: found(*bare)))

        return call

    def _wire(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wire(one) for one in value]
        return WiredLibvirt(value, self._fuse) if isinstance(value, WRAPPED) else value


class WiredConnection(LibvirtConnection):
    def __init__(self, uri: str, fuse: Fuse) -> None:
        super().__init__(uri)
        self._fuse = fuse
        self._wired: WiredLibvirt | None = None

    def get(self) -> Any:
        bare = super().get()
        if self._wired is None or self._wired._target is not bare:
            self._wired = WiredLibvirt(bare, self._fuse)
        return self._wired


class WiredApi(RuntimeApi):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    def ask(self, command: str) -> str:
        kind = next((one for one in _COMMANDS if command.startswith(one)), None)
        if kind is None:
            return super().ask(command)
        return str(self._fuse.around(f"haproxy.{kind}", lambda: RuntimeApi.ask(self, command)))


class WiredHaproxy(HaproxyBalancer):
    def __init__(self, directory: Path, template: str, fuse: Fuse) -> None:
        super().__init__(directory, template)
        self._fuse = fuse
        self._runtime = WiredApi(directory / "stats.sock", fuse)

    def _spawn(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        what = "check" if "-c" in arguments else "reload" if "-x" in arguments else "start"
        done = self._fuse.around(f"haproxy.{what}", lambda: HaproxyBalancer._spawn(self, arguments))
        assert isinstance(done, subprocess.CompletedProcess)
        return done


class WiredRecorder(Recorder):
    fuse: Fuse

    def perform(self, step: Any) -> bool:
        done = super().perform(step)
        phase = f" {step.phase.value}" if hasattr(step, "phase") else ""
        self.fuse.step(f"{type(step).__name__}{phase}")
        return done

    def admit(self, steps: Any) -> bool:
        done = super().admit(steps)
        self.fuse.step("Admit")
        return done

    def succeeded(self, member: Any, kind: Any, reason: str) -> Any:
        done = super().succeeded(member, kind, reason)
        self.fuse.step(f"recorded {kind.value}")
        return done


class WiredExecutor(Wired):
    def perform(self, effect: Any, *rest: Any) -> None:
        self._target.perform(effect, *rest)
        _, fuse, _ = self._wiring
        fuse.step(f"done {effect.kind.value} {effect.member.phase.value}")


class WiredRuntime(Runtime):
    """The composition root with a fuse in every part that changes something."""

    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root)
        self._fuse = fuse

    @cached_property
    def store(self) -> Any:
        made = super().store
        event.listen(made.database._engine, "commit", lambda _connection: self._fuse.burn("store.commit before"))
        return Wired(made, "store", self._fuse, _STORE_CALLS)

    @cached_property
    def ledger(self) -> Any:
        made = Ledger(self.paths.declarations, self.paths.image_records)
        return Wired(made, "ledger", self._fuse, frozenset({"keep", "forget"}))

    @cached_property
    def connections(self) -> dict[str, LibvirtConnection]:
        return {host.name: WiredConnection(host.uri, self._fuse) for host in self.settings.hosts}

    @cached_property
    def hosts(self) -> Any:
        return {name: WiredHost(host, "host", self._fuse, HOST_CALLS) for name, host in super().hosts.items()}

    @cached_property
    def balancer(self) -> Any:
        from orchestrator.config.resources import template

        self.paths.ensure()
        made = WiredHaproxy(self.paths.haproxy, template("haproxy.cfg.j2"), self._fuse)
        return Wired(made, "balancer", self._fuse, frozenset({"converge"}))

    def controller(self) -> Controller:
        identities, candidates = self.identities.member_suffix, self.addressing.candidates
        recorder = WiredRecorder(self.store, identities, candidates, self.fence)
        recorder.fuse = self._fuse
        executor: Any = WiredExecutor(self.executor, "executor", self._fuse, frozenset())
        parts = ControllerParts(
            store=self.store,
            recorder=recorder,
            executor=executor,
            hosts=self.hosts,
            balancer=self.balancer,
            lease=self.lease,
            clock=self.clock,
            fence=self.fence,
            ledger=self.ledger,
        )
        prefix, parallel = self.settings.prefix, self.settings.limits.parallel
        return Controller(parts, self.limits, prefix, parallel, self.addressing.capacity())


# ---- operations ----------------------------------------------------------------------------------------------


def apply(runtime: Runtime, file: str) -> None:
    (spec,) = load_scale_sets(Path(file))
    declare.apply(runtime.store, pack_uploads(spec, runtime.paths.uploads), runtime.surroundings())
    carry_out(runtime, spec.name, lambda _now: None, _ATTEMPT_SECONDS)


def scale(runtime: Runtime, name: str, instances: str) -> None:
    declare.scale(runtime.store, name, int(instances), runtime.surroundings())
    carry_out(runtime, name, lambda _now: None, _ATTEMPT_SECONDS)


def reimage(runtime: Runtime, target: str, body: str) -> None:
    """Asked for once: whoever asks again after it was asked for would get one body more."""
    _ask(runtime, target, lambda one: one.incarnation < int(body), members.reimage)


def restart(runtime: Runtime, target: str, since: str) -> None:
    """Asked for unless it was in service since that moment."""
    _ask(runtime, target, lambda one: one.phase_since <= float(since), members.restart)


def _ask(runtime: Runtime, target: str, is_due: Callable[[Any], bool], wish: Callable[..., Any]) -> None:
    member = members.find_member(runtime.store, target)
    if member.request is None and member.phase is Phase.IN_SERVICE and is_due(member):
        wish(runtime.store, target)
    else:
        runtime.store.touch_set(member.set_name)
    carry_out(runtime, member.set_name, lambda _now: None, _ATTEMPT_SECONDS)


def heal(runtime: Runtime, name: str) -> None:
    runtime.store.touch_set(name)
    carry_out(runtime, name, lambda _now: None, _ATTEMPT_SECONDS)


def delete(runtime: Runtime, name: str) -> None:
    if any(one.name == name for one in runtime.store.snapshot().sets):
        declare.delete(runtime.store, name)
    carry_out(runtime, name, lambda _now: None, _ATTEMPT_SECONDS)


_OPERATIONS: Mapping[str, Callable[..., None]] = {
    "apply": apply,
    "rollout": apply,
    "scale-out": scale,
    "scale-out-stopped": scale,
    "scale-out-running": scale,
    "scale-fork": scale,
    "scale-cold": scale,
    "scale-in": scale,
    "reimage": reimage,
    "restart": restart,
    "repair": heal,
    "delete": delete,
}


# ---- attempts ------------------------------------------------------------------------------------------------


def attempt(root: Path, tried: Path, operation: str, arguments: list[str]) -> int:
    """Status of a new process that carries the operation out, as waitpid(2) gives it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            runtime = WiredRuntime(root, Fuse(tried, operation))
            try:
                _OPERATIONS[operation](runtime, *arguments)
                status = 0
            finally:
                runtime.close()
        except BaseException as error:  # noqa: BLE001 - told to whoever reads the log, then the process ends
            sys.stderr.write(f"{operation}: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def kinds_in(tried: str) -> list[str]:
    return Path(tried).read_text(encoding="utf-8").splitlines()


def running_members(uri: str, prefix: str) -> set[str]:
    command = ["virsh", "-q", "-c", uri, "list", "--name"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {name.removeprefix(f"{prefix}-") for name in names if name.startswith(f"{prefix}-")}


def main() -> None:
    root, tried, operation, *arguments = sys.argv[1:]
    before = len(kinds_in(tried))
    astray: list[str] = []
    settings = load_settings(StatePaths(Path(root)).settings)
    for _ in range(_MOST_ATTEMPTS):
        status = attempt(Path(root), Path(tried), operation, arguments)
        if not os.WIFSIGNALED(status):
            break
        lost = ready_servers(Path(root)) - running_members(settings.hosts[0].uri, settings.prefix)
        astray += [f"{name} after {kinds_in(tried)[-1]}" for name in sorted(lost)]
    print(json.dumps({"kinds": kinds_in(tried)[before:], "astray": astray}))
    sys.exit(0 if status == 0 else 1)


if __name__ == "__main__":
    main()
