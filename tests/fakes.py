"""Stateful fakes of every port. What they promise is what the ports' docstrings say.

`tests/contract` holds `FakeHypervisor` to the real one. A variant that fails is a class with a name that says how.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import (
    AgentAbsent,
    BalancerError,
    BaseLost,
    Conflict,
    DiskLost,
    GoldenUnusable,
    GuestError,
    HostError,
    HostFull,
    HostUnreachable,
    Interrupted,
    NeverReady,
    NotFound,
    SetupFailed,
)
from orchestrator.models.adoption import FoundMachine, HostSurvey
from orchestrator.models.balancing import BalancerConfig
from orchestrator.models.golden import GoldenImage
from orchestrator.models.machine import Blueprint, Hardware, Subnet
from orchestrator.models.members import GuestPhase, Image
from orchestrator.models.naming import (
    OWN_FILTER,
    console_log,
    golden_disk,
    golden_mark,
    golden_memory,
    grown_volume,
    image_volume,
    local_volumes,
    overlay_volume,
    raw_volume,
    seed_volume,
)
from orchestrator.models.ownership import OwnerTag
from orchestrator.models.sightings import (
    BalancerSighting,
    HostSighting,
    MachineSighting,
    Power,
    Rotation,
    ServerSighting,
)
from orchestrator.models.spec import Probe
from orchestrator.models.storage import ExtraDisk
from orchestrator.ports.guest import GuestAddress, GuestShell, Listen, Patience
from tests.builders import GIB, INSTALLATION, NOW, PREFIX

REAL_SECONDS = 20.0  # real time after which a fake that waits gives up: the test that made it wait is wrong


class FakeClock:
    """Time stands still until the test moves it; both faces of the clock move together. `hurry`: seconds that pass
    whenever somebody rests."""

    def __init__(self, now: float = NOW) -> None:
        self.hurry = 0.0
        self._now = now
        self._monotonic = 1000.0
        self._moved = threading.Condition()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        with self._moved:
            self._now += seconds
            self._monotonic += seconds
            self._moved.notify_all()

    def jump(self, seconds: float) -> None:
        """Somebody sets it: no time passes."""
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def rest(self, seconds: float = 0.0) -> None:
        """Whoever waits looks again: when the clock moves, or after a moment."""
        if self.hurry:
            self.advance(self.hurry)
            return
        with self._moved:
            self._moved.wait(0.005)


class Journal:
    """What the fakes did, in order, over all of them."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def write(self, what: str, subject: str) -> None:
        with self._lock:
            self._entries.append((what, subject))

    def entries(self, *kinds: str) -> list[tuple[str, str]]:
        with self._lock:
            return [entry for entry in self._entries if not kinds or entry[0] in kinds]

    def count(self, what: str) -> int:
        return len(self.entries(what))

    def position(self, what: str, subject: str) -> int:
        """Of the first such entry. Raises ValueError."""
        return self.entries().index((what, subject))


# ---- hypervisor ----------------------------------------------------------------------------------------------


@dataclass
class FakeMachine:
    """A domain of ours."""

    blueprint: Blueprint
    seed: bytes | None
    power: Power = Power.RUNNING
    boots: int = 1
    has_rebooted: bool = False
    reads: str = ""  # what its guest finds in the file of its phase, which no boot outlives
    disks: set[str] = field(default_factory=set)  # further disks it has from its next start on
    live: set[str] = field(default_factory=set)  # and those it has now
    tag: OwnerTag | None = None  # None: an older version made it
    golden: str = ""  # the frozen disk over which a fork is written
    was_taken: bool = False  # a golden image was taken of it
    is_linked: bool = True
    is_nobody: bool = False  # a fork that was never given a network: it vanishes when it ends
    told: str = ""  # what the agent of a fork was given to read since it was forked


@dataclass(frozen=True)
class FakeGolden:
    """What a fork finds in its memory and on its disk: all that its source had."""

    source: FakeMachine
    files: Mapping[str, str] | None  # of the source's guest agent
    volumes: tuple[str, str, str]  # frozen disk, memory, mark


class FakeDisks:
    """The further disks of one host. `made` counts how often each was made: what was made twice lost its data."""

    takes_disks_while_running = True

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host
        self.sizes: dict[str, int] = {}
        self.made: Counter[str] = Counter()

    def ensure(self, disks: Sequence[ExtraDisk], domain: str) -> None:
        for disk in disks:
            if self.holders(disk.volume) - {domain}:
                raise Conflict(f"volume {disk.volume!r} is attached to another machine than {domain!r}")
            if not disk.must_exist and self._is_strange(disk.volume):
                raise Conflict(f"{disk.volume} was not made for that drive; it is left alone")
            if disk.volume not in self._host.volumes:
                if raw_volume(disk.volume) in self._host.volumes:
                    raise HostError(f"{raw_volume(disk.volume)} is a raw disk, as an earlier version made them")
                if disk.must_exist:
                    raise HostError(f"volume {disk.volume!r} of a drive is missing on {self._host.name}")
                self._host.volumes[disk.volume] = b""
                self.made[disk.volume] += 1
            self.sizes[disk.volume] = max(disk.size, self.sizes.get(disk.volume, 0))

    def _is_strange(self, volume: str) -> bool:
        return volume in self._host.strange and self._host.volumes.get(volume, b"") != b""

    def holders(self, volume: str) -> set[str]:
        ours = {name for name, one in self._host.machines.items() if volume in one.disks | one.live}
        return ours | ({"somebody else's"} if volume in self._host.foreign_disks else set())

    def attach(self, domain: str, disks: Sequence[ExtraDisk], hardware: Hardware) -> bool:
        with self._host._changing():
            self._host._answer("attach", domain)
            machine = self._host._get(domain)
            self.ensure(disks, domain)
            volumes = {disk.volume for disk in disks}
            machine.disks |= volumes
            if machine.power is not Power.RUNNING or volumes <= machine.live:
                return True
            if not self.takes_disks_while_running or hardware.disk_bus == "sata":
                return False
            machine.live |= volumes
            return True

    def remove_local_storage(self, member: str, keep: str = "") -> None:
        with self._host._changing():
            self._host._answer("remove_local_storage", member)
            begin = local_volumes(self._host._prefix, member)
            for name in [name for name in self._host.volumes if name.startswith(begin) and name != keep]:
                if not self.holders(name) and not name.endswith(".raw"):
                    del self._host.volumes[name]

    def remove_drive(self, disk: ExtraDisk) -> None:
        volume = disk.volume
        with self._host._changing():
            self._host._answer("remove_drive", volume)
            if self.holders(volume):
                raise Conflict(f"drive {volume!r} is attached to a machine")
            if volume not in self._host.volumes and raw_volume(volume) in self._host.volumes:
                raise HostError(f"{raw_volume(volume)} is a raw disk, as an earlier version made them")
            if disk.must_exist or not self._is_strange(volume):
                self._host.volumes.pop(volume, None)


class FakeHypervisor:
    """One host: machines with their power, volumes by name, domains of others.

    `machines`, `volumes` and `networks` may be read by tests; they are changed by calls of the port, or by the
    methods below it that stand for what happens to a host.
    """

    disks_type: type[FakeDisks] = FakeDisks

    def __init__(
        self,
        name: str = "local",
        zone: str = "a",
        *,
        installation: str = INSTALLATION,
        prefix: str = PREFIX,
        memory: int = 64 * GIB,
        journal: Journal | None = None,
    ) -> None:
        self._name = name
        self._zone = zone
        self._installation = installation
        self._prefix = prefix
        self._memory = memory
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self._silence = ""
        self._is_full = False
        self._deaf: set[str] = set()
        self.journal = journal or Journal()
        self.calls: Counter[str] = Counter()
        self.machines: dict[str, FakeMachine] = {}
        self.halted: set[str] = set()  # machines that are paused because their disks could not be written
        self.foreign: set[str] = set()
        self.foreign_disks: set[str] = set()  # volumes that domains of others have
        self.volumes: dict[str, bytes] = {}
        self.strange: set[str] = set()  # volumes that somebody else put there, under names of ours
        self.consoles: dict[str, bytes] = {}
        self.why_no_console = ""  # why what consoles show is not kept
        self.networks: dict[str, Subnet] = {}
        self.filters = {"clean-traffic"}
        self.agents: dict[str, dict[str, str]] = {}  # domain -> the files that its guest agent can read
        self.agents_may_run = False  # whether guest agents may run commands
        self.scripts: list[str] = []  # that they were given to run
        self.exit_status = 0  # of those
        self.goldens: dict[str, FakeGolden] = {}  # by model
        self.cpus = 8
        self.emulates: bool | None = False
        self.why_no_golden = ""  # why this host can have none
        self.is_closed = False
        self.disks = self.disks_type(self)

    # ---- the port ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def zone(self) -> str:
        return self._zone

    def observe(self) -> HostSighting:
        with self._lock:
            self.calls["observe"] += 1
            if self._silence:
                return HostSighting(self._name, self._zone, answers=False, reason=self._silence)
            seen = {domain: self._see(domain, machine) for domain, machine in self.machines.items()}
            return HostSighting(
                name=self._name,
                zone=self._zone,
                answers=True,
                memory_total=self._memory,
                memory_free=self._memory // 2,
                cpus=self.cpus,
                emulates=self.emulates,
                machines={domain: one for domain, one in seen.items() if one is not None},
                goldens=frozenset(self.goldens),
            )

    def _see(self, domain: str, machine: FakeMachine) -> MachineSighting | None:
        made = machine.blueprint
        if made.installation != self._installation or domain != f"{self._prefix}-{made.member}":
            return None
        rebooted, machine.has_rebooted = machine.has_rebooted, False
        return MachineSighting(
            domain, made.member, made.incarnation, machine.power, rebooted, domain in self.halted, made.forked
        )

    def ensure_image(self, image: Image, file: Path) -> None:
        with self._lock:
            self._answer("ensure_image", image.digest)
            name = image_volume(self._prefix, image.digest)
            if name in self.volumes:
                if hashlib.sha256(self.volumes[name]).hexdigest() != image.digest:
                    raise HostError(f"{name} is not what was imported", f"move it away: {name}")
                return
            if not file.exists():
                raise HostError(f"{file} is missing")
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != image.digest:
                raise HostError(f"{file} is not what was imported")
            self.volumes[name] = content

    def remove_image(self, digest: str) -> None:
        with self._lock:
            self._answer("remove_image", digest)
            if image_volume(self._prefix, digest) not in self.foreign_disks:
                self.volumes.pop(image_volume(self._prefix, digest), None)

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        with self._changing():
            self._answer("create_machine", blueprint.domain)
            self._refuse_foreign(blueprint.domain)
            found = self.machines.get(blueprint.domain)
            is_there = found is not None and found.blueprint.incarnation == blueprint.incarnation
            if found is not None and is_there and not found.is_nobody:
                found.power = Power.RUNNING
                return
            self._make_room(blueprint.domain)
            self._make_files(blueprint, seed)
            volumes = {disk.volume for disk in blueprint.disks}
            self.machines[blueprint.domain] = FakeMachine(blueprint, seed, disks=volumes, live=set(volumes))
            self.machines[blueprint.domain].tag = blueprint.tag()

    def _make_room(self, domain: str) -> None:
        self._remove(domain)
        if any(name.startswith(f"{domain}.") for name in self.foreign_disks):
            raise Conflict(f"a volume of {domain!r} is a disk of a domain that is not ours; it is left alone")
        if any(name.startswith(f"{domain}.") for name in self.strange & self.volumes.keys()):
            raise Conflict(f"a volume of {domain!r} is not written over an image of ours: it is left alone")

    def _make_files(self, blueprint: Blueprint, seed: bytes | None) -> None:
        base = image_volume(self._prefix, blueprint.image.digest)
        if base not in self.volumes:
            raise HostError(f"volume {base!r} is missing on {self._name}")
        domain, body = blueprint.domain, blueprint.incarnation
        self.volumes[overlay_volume(domain, body)] = b""
        if self._is_full:
            raise HostFull(f"cannot create {domain!r} on {self._name}: No space left on device")
        if seed is not None:
            self.volumes[seed_volume(domain, body)] = seed
        if not self.why_no_console:
            self.consoles[console_log(domain, body)] = f"{domain} booted\n".encode()
        if blueprint.nic.network and blueprint.nic.network not in self.networks:
            raise NotFound(f"{self._name} has no network {blueprint.nic.network!r}")
        self.disks.ensure(blueprint.disks, domain)

    def remove_seed(self, domain: str, incarnation: int) -> None:
        with self._changing():
            self._answer("remove_seed", domain)
            self._get(domain)
            self.volumes.pop(seed_volume(domain, incarnation), None)

    def start_machine(self, domain: str) -> None:
        with self._changing():
            self._answer("start_machine", domain)
            machine = self._get(domain)
            if machine.power is not Power.RUNNING:
                self._check_disks(machine)
                if machine.power is not Power.HIBERNATED:
                    machine.boots += 1
                    machine.reads = ""
                    machine.live = set(machine.disks)
                machine.power = Power.RUNNING

    def _check_disks(self, machine: FakeMachine) -> None:
        made = machine.blueprint
        has_base = image_volume(self._prefix, made.image.digest) in self.volumes
        needed = {overlay_volume(made.domain, made.incarnation)} | ({machine.golden} - {""})
        needed |= {grown_volume(made.domain, made.incarnation)} if machine.was_taken else set()
        has_disk = needed <= self.volumes.keys()
        if not has_base and not has_disk:
            raise HostError(f"cannot start {made.domain!r}: neither its disk nor its base is there")
        if not has_base:
            raise BaseLost(f"cannot start {made.domain!r}: its base disk is gone")
        if not has_disk:
            raise DiskLost(f"cannot start {made.domain!r}: its disk is gone")

    def shut_down_machine(self, domain: str, deadline: float, cancelled: Callable[[], bool]) -> bool:
        with self._changing():
            self._answer("shut_down_machine", domain)
            machine = self._get(domain)
            if machine.power is not Power.RUNNING:
                return True
            is_deaf = domain in self._deaf
            # A guest that does not hear the power button: the deadline passes in no time.
            if is_deaf and cancelled():
                raise Interrupted(f"shutting down {domain} is no longer wanted")
            self._end(domain, Power.STOPPED)
            return not is_deaf

    def resume_machine(self, domain: str) -> None:
        with self._changing():
            self._answer("resume_machine", domain)
            self._get(domain)
            if not self._is_full:
                self.halted.discard(domain)

    def hibernate_machine(self, domain: str) -> None:
        with self._changing():
            self._answer("hibernate_machine", domain)
            machine = self._get(domain)
            if machine.is_nobody:
                raise HostError(f"cannot hibernate {domain!r}: a fork without identity cannot be saved")
            if machine.power is Power.RUNNING:
                machine.power = Power.HIBERNATED

    def destroy_machine(self, domain: str) -> None:
        with self._changing():
            self._answer("destroy_machine", domain)
            self._refuse_foreign(domain)
            self._remove(domain)

    def _remove(self, domain: str) -> None:
        self.machines.pop(domain, None)
        theirs = self.foreign_disks | self.strange
        for name in [name for name in self.volumes if name.startswith(f"{domain}.") and name not in theirs]:
            del self.volumes[name]
        for name in [name for name in self.consoles if name.startswith(f"{domain}.")]:
            del self.consoles[name]

    def mark_machine(self, domain: str, tag: OwnerTag) -> None:
        with self._changing():
            self._answer("mark_machine", domain)
            machine = self._get(domain)
            known = machine.tag.image if machine.tag is not None else ""
            machine.tag = replace(tag, image=tag.image or known, forked=machine.blueprint.forked)

    def take_golden(
        self, domain: str, incarnation: int, model: str, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        with self._changing():
            self._answer("take_golden", domain)
            if cancelled():
                raise Interrupted(f"no golden image is taken of {domain!r} now")
            machine = self._get(domain)
            if model in self.goldens:
                return
            why = self.why_no_golden or self._why_not_taken(machine, incarnation)
            if why:
                raise GoldenUnusable(f"no golden image is taken of {domain!r}: {why}")
            if self._is_full:
                raise HostFull(f"cannot take a golden image of {domain!r}: No space left on device")
            serial = next(n for n in itertools.count(1) if golden_disk(self._prefix, model, n) not in self.volumes)
            disk, memory, mark = (
                name(self._prefix, model, serial) for name in (golden_disk, golden_memory, golden_mark)
            )
            for name in (disk, memory, mark, grown_volume(domain, incarnation)):
                self.volumes[name] = b""
            files = self.agents.get(domain)
            kept = dict(files) if files is not None else None
            self.goldens[model] = FakeGolden(replace(machine), kept, (disk, memory, mark))
            machine.was_taken = True

    def _why_not_taken(self, machine: FakeMachine, incarnation: int) -> str:
        made = machine.blueprint
        if made.incarnation != incarnation:
            return f"it is body {made.incarnation}, not {incarnation}"
        if machine.power is not Power.RUNNING:
            return "it does not run"
        if machine.golden or machine.was_taken:
            return "it is written over a golden image, or one was taken of it before"
        if seed_volume(made.domain, incarnation) in self.volumes:
            return "its seed is still attached"
        return "it has further disks" if machine.live else ""

    def fork_machine(self, blueprint: Blueprint) -> None:
        with self._changing():
            self._answer("fork_machine", blueprint.domain)
            self._refuse_foreign(blueprint.domain)
            found = self.machines.get(blueprint.domain)
            if found is not None and found.blueprint.incarnation == blueprint.incarnation:
                found.power = Power.RUNNING
                return
            golden = self._find_golden(blueprint.model)
            made = replace(blueprint, forked=True)
            self._make_room(made.domain)
            self._make_files(made, None)
            volumes = {disk.volume for disk in made.disks}
            self.machines[made.domain] = FakeMachine(
                made,
                golden.source.seed,
                disks=volumes,
                live=set(volumes),
                tag=made.tag(),
                reads=golden.source.reads,
                golden=golden.volumes[0],
                is_linked=False,
                is_nobody=True,
            )
            if golden.files is not None:
                self.agents[made.domain] = dict(golden.files)

    def _find_golden(self, model: str) -> FakeGolden:
        golden = self.goldens.get(model)
        if golden is None:
            raise GoldenUnusable(f"{self._name} has no golden image of model {model}")
        if any(name not in self.volumes for name in golden.volumes):
            self._drop_golden(model)
            raise GoldenUnusable(f"the golden image of model {model} on {self._name} is damaged")
        return golden

    def is_fork(self, domain: str) -> bool:
        with self._lock:
            self._answer("is_fork", domain)
            machine = self.machines.get(domain)
            return machine is not None and domain not in self.foreign and machine.blueprint.forked

    def set_link(self, domain: str, up: bool) -> None:
        with self._changing():
            self._answer("set_link", domain)
            machine = self._get(domain)
            if machine.power is not Power.RUNNING:
                raise HostError(f"cannot set the link of {domain!r}: it does not run")
            machine.is_linked = up
            machine.is_nobody = machine.is_nobody and not up

    def remove_golden(self, model: str) -> None:
        with self._changing():
            self._answer("remove_golden", model)
            begin = golden_disk(self._prefix, model, 0).partition(".")[0]
            for name, machine in sorted(self.machines.items()):
                if machine.golden.startswith(begin):
                    raise Conflict(f"the golden image of model {model} is in use by {name!r}")
            self._drop_golden(model)

    def list_goldens(self) -> list[GoldenImage]:
        with self._lock:
            self._answer("list_goldens", self._name)
            return [
                GoldenImage(model, one.source.blueprint.image.digest, one.source.blueprint.domain, 1, 2, NOW)
                for model, one in sorted(self.goldens.items())
            ]

    def _drop_golden(self, model: str) -> None:
        """Frozen disks stay while machines are written over them."""
        self.goldens.pop(model, None)
        begin = golden_disk(self._prefix, model, 0).partition(".")[0]
        used = {one.golden for one in self.machines.values()}
        for name in [name for name in self.volumes if name.startswith(begin) and name not in used]:
            del self.volumes[name]

    def survey(self) -> HostSurvey:
        with self._lock:
            self._answer("survey", self._name)
            seen = self.observe().machines
            machines = tuple(self._find(domain, seen[domain].power) for domain in sorted(seen))
            theirs = self.machines.keys() - seen.keys()
            disks = {disk for domain in theirs for disk in self.machines[domain].disks}
            sizes = {name: self.disks.sizes.get(name, 0) for name in self.volumes}
            foreign = tuple(sorted(self.foreign | theirs))
            return HostSurvey(self._name, machines, sizes, foreign, frozenset(disks), frozenset(self.consoles))

    def _find(self, domain: str, power: Power) -> FoundMachine:
        machine = self.machines[domain]
        member, disks = machine.blueprint.member, frozenset(machine.disks | machine.live)
        memory = machine.blueprint.memory
        return FoundMachine(domain, member, self._name, self._zone, power, machine.tag, disks, memory)

    def console_tail(self, domain: str, incarnation: int, size: int = 4096) -> str:
        with self._lock:
            self._answer("console_tail", domain)
            raw = self.consoles.get(console_log(domain, incarnation), b"")[-size:]
            text = raw.decode("utf-8", "replace").replace("\r\n", "\n")
            return "".join(char for char in text if char.isprintable() or char == "\n").strip()

    def why_no_console_log(self) -> str:
        return self.why_no_console

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        with self._lock:
            self._answer("ask_agent", domain)
            machine = self._get(domain)
            files = self.agents.get(domain)
            if files is None or machine.power is not Power.RUNNING:
                raise AgentAbsent(f"the agent of {domain!r} is not connected")
            if command.startswith("guest-exec") and self.agents_may_run:
                machine.told += base64.b64decode(str(arguments.get("input-data", ""))).decode()
                return self._run_by_agent(machine, arguments)
            return _answer_as_agent(files, command, arguments, self.agents_may_run)

    def _run_by_agent(self, machine: FakeMachine, arguments: Mapping[str, object]) -> object:
        """Ends at once. Of scripts, those that tell the guest its phase are understood."""
        if "path" not in arguments:
            return {"exited": True, "exitcode": self.exit_status}
        read = base64.b64decode(str(arguments.get("input-data", ""))).decode()
        script = str(arguments["arg"][1]) if "arg" in arguments else ""  # type: ignore[index]
        self.scripts.append(read or script)
        words = re.findall(r"printf '(\w+)\\n'", script)
        machine.reads = words[0] if words else machine.reads
        return {"pid": 7}

    def describe_network(self, name: str, filter_: str = "") -> Subnet:
        with self._lock:
            self._answer("describe_network", name)
            if filter_ and filter_ not in {OWN_FILTER, *self.filters}:
                raise NotFound(f"{self._name} has no network filter {filter_!r}")
            if name not in self.networks:
                raise NotFound(f"{self._name} has no network {name!r}")
            return self.networks[name]

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._listeners.append(on_change)

    def close(self) -> None:
        self.is_closed = True

    # ---- what happens to a host --------------------------------------------------------------------------

    def go_silent(self, reason: str = "the connection is refused") -> None:
        self._silence = reason
        self._tell()

    def answer_again(self) -> None:
        self._silence = ""
        self._tell()

    def fill_disk(self) -> None:
        """Nothing can be created until there is room again; what exists goes on."""
        self._is_full = True

    def free_disk(self) -> None:
        self._is_full = False

    def lose(self, volume: str) -> None:
        """Somebody deletes the file behind a volume."""
        with self._lock:
            del self.volumes[volume]

    def change(self, volume: str) -> None:
        """Somebody writes into the file behind a volume."""
        with self._lock:
            self.volumes[volume] = self.volumes[volume][:-1] + bytes([self.volumes[volume][-1] ^ 1])

    def kill(self, domain: str) -> None:
        """The machine's process dies."""
        self._set_power(domain, Power.CRASHED)

    def power_off(self, domain: str) -> None:
        """The guest switches itself off."""
        self._set_power(domain, Power.STOPPED)

    def vanish(self, domain: str) -> None:
        """Somebody undefines the domain; its volumes stay."""
        with self._changing():
            del self.machines[domain]

    def reboot(self, domain: str) -> None:
        """The guest restarts by itself."""
        with self._changing():
            machine = self.machines[domain]
            machine.has_rebooted = True
            machine.boots += 1
            machine.reads = ""

    def deafen(self, domain: str) -> None:
        """The guest does not hear the power button any more."""
        self._deaf.add(domain)

    def say(self, domain: str, text: str) -> None:
        """Appended to the machine's serial console log."""
        with self._lock:
            incarnation = self.machines[domain].blueprint.incarnation
            if not self.why_no_console:
                self.consoles[console_log(domain, incarnation)] += text.encode()

    def power(self, domain: str) -> Power:
        with self._lock:
            machine = self.machines.get(domain)
            return machine.power if machine else Power.ABSENT

    def files_of(self, domain: str) -> list[str]:
        with self._lock:
            return sorted(name for name in self.volumes if name.startswith(f"{domain}."))

    def running_at(self, member: str, address: str) -> FakeMachine | None:
        """The running machine of that member, if the address is its."""
        with self._lock:
            return next(
                (
                    machine
                    for machine in self.machines.values()
                    if machine.power is Power.RUNNING
                    and machine.is_linked
                    and (machine.blueprint.member, machine.blueprint.nic.address) == (member, address)
                ),
                None,
            )

    # ---- parts -------------------------------------------------------------------------------------------

    def _set_power(self, domain: str, power: Power) -> None:
        with self._changing():
            self._end(domain, power)

    def _end(self, domain: str, power: Power) -> None:
        machine = self.machines[domain]
        machine.power = power
        machine.is_linked = True
        if machine.is_nobody:
            del self.machines[domain]

    def _answer(self, call: str, subject: str) -> None:
        self.calls[call] += 1
        if self._silence:
            raise HostUnreachable(f"{self._name} does not answer: {self._silence}")
        self.journal.write(call, subject)

    def _get(self, domain: str) -> FakeMachine:
        self._refuse_foreign(domain)
        if domain not in self.machines:
            raise NotFound(f"{self._name} has no domain {domain!r}")
        return self.machines[domain]

    def _refuse_foreign(self, domain: str) -> None:
        theirs = domain in self.machines and self.machines[domain].blueprint.installation != self._installation
        if domain in self.foreign or theirs:
            raise Conflict(f"domain {domain!r} exists and is not ours; it is left alone")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The host's lock; listeners are told after it is let go of."""
        try:
            with self._lock:
                yield
        finally:
            self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()


def _answer_as_agent(
    files: dict[str, str], command: str, arguments: Mapping[str, object], may_run: bool = False
) -> object:
    """Handles are numbers of files in order; an agent knows no more than that."""
    names = sorted(files)
    match command:
        case "guest-info":
            allowed = ["guest-file-open", "guest-file-read", "guest-file-seek", "guest-file-close"]
            allowed += ["guest-exec", "guest-exec-status"] if may_run else []
            return {"supported_commands": [{"name": name, "enabled": True} for name in allowed]}
        case "guest-file-close" | "guest-set-time" | "guest-ping":
            return {}
        case "guest-file-open":
            if arguments["path"] not in files:
                raise GuestError(f"failed to open file {arguments['path']!r}")
            return names.index(str(arguments["path"]))
        case "guest-file-seek":
            return {"position": 0, "eof": False}
        case "guest-file-read":
            content = files[names[int(str(arguments["handle"]))]].encode()
            return {"count": len(content), "buf-b64": base64.b64encode(content).decode(), "eof": True}
    raise GuestError(f"the command {command} has not been found")


class HypervisorThatLosesAnswers(FakeHypervisor):
    """Does what it is asked, but the answer to the first `lost` changes never arrives."""

    lost = 1

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        super().create_machine(blueprint, seed)
        self._lose_answer()

    def start_machine(self, domain: str) -> None:
        super().start_machine(domain)
        self._lose_answer()

    def destroy_machine(self, domain: str) -> None:
        super().destroy_machine(domain)
        self._lose_answer()

    def _lose_answer(self) -> None:
        if self.lost > 0:
            self.lost -= 1
            raise HostUnreachable(f"{self.name} does not answer: connection reset")


class HypervisorThatHangs(FakeHypervisor):
    """Lets whoever looks at it wait from `hang` until `go_on`. What is seen then is as it was when asked."""

    def __init__(self, name: str, zone: str = "a", **fields: Any) -> None:
        super().__init__(name, zone, **fields)
        self._goes_on = threading.Event()
        self._goes_on.set()
        self.is_asked = threading.Event()

    def observe(self) -> HostSighting:
        seen = super().observe()
        self.is_asked.set()
        self._goes_on.wait()
        return seen

    def hang(self) -> None:
        self.is_asked.clear()
        self._goes_on.clear()

    def go_on(self) -> None:
        self._goes_on.set()


class HypervisorThatCannotDestroy(FakeHypervisor):
    """Refuses to remove machines until it is `mended`."""

    mended = False

    def destroy_machine(self, domain: str) -> None:
        if not self.mended:
            raise HostError(f"cannot remove {domain!r} on {self.name}: device or resource busy")
        super().destroy_machine(domain)


# ---- balancer ------------------------------------------------------------------------------------------------


class FakeBalancer:
    """Servers with state and sessions; keeps serving what it served when it refuses a change."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._lock = threading.RLock()
        self._config: BalancerConfig | None = None
        self._refusal = ""
        self.journal = journal or Journal()
        self.calls: Counter[str] = Counter()
        self.sessions: Counter[str] = Counter()  # by member
        self.down: set[str] = set()  # members whose health check fails
        self.taken: set[tuple[str, int]] = set()  # sockets that other programs hold

    # ---- the port ----------------------------------------------------------------------------------------

    def observe(self) -> BalancerSighting:
        with self._lock:
            if self._config is None:
                return BalancerSighting(running=False)
            servers = {
                key: ServerSighting(state, key[1] not in self.down, self.sessions[key[1]])
                for key, state in self._config.server_states().items()
            }
            return BalancerSighting(True, self._config.digest(), servers)

    def converge(self, config: BalancerConfig) -> None:
        with self._lock:
            self.calls["converge"] += 1
            if self._refusal:
                raise BalancerError(self._refusal)
            for front in config.frontends:
                why = self.why_not_bindable(front.address, front.listen)
                if why:
                    raise BalancerError(f"endpoint {front.name} cannot listen on {front.listen}: {why}")
            self._config = config if config.frontends else None
            for (backend, member), state in config.server_states().items():
                self.journal.write(f"server {state.value}", f"{backend}/{member}")

    def why_not_bindable(self, address: str, port: int) -> str:
        return "another program listens there" if (address, port) in self.taken else ""

    # ---- what happens to a balancer ----------------------------------------------------------------------

    def refuse(self, reason: str) -> None:
        """Every change, until `relent`."""
        self._refusal = reason

    def relent(self) -> None:
        self._refusal = ""

    def die(self) -> None:
        with self._lock:
            self._config = None

    @property
    def is_running(self) -> bool:
        return self._config is not None

    @property
    def config(self) -> BalancerConfig:
        return self._config or BalancerConfig()

    def rotation(self, state: Rotation = Rotation.READY) -> set[str]:
        """Members with that state behind every endpoint they are behind."""
        with self._lock:
            states = self.config.server_states()
            members = {member for _, member in states}
            return {
                one
                for one in members
                if all(found is state for (_, member), found in states.items() if member == one)
            }


# ---- guest ---------------------------------------------------------------------------------------------------


class FakeGuest:
    """Guests of the machines that run on the given hosts: they boot instantly and do everything well.

    A guest that is off, or `held`, does not answer: whoever waits for it waits until it is there, until the work
    is cancelled, or until the test has moved the clock past the deadline.
    """

    def __init__(self, clock: FakeClock, *hosts: FakeHypervisor) -> None:
        self._clock = clock
        self._hosts = hosts
        self._held: set[str] = set()
        self._counting = threading.Lock()
        self.waiting: Counter[str] = Counter()  # by member: who is waited for now
        self.shells: list[FakeGuestShell] = []
        self.outputs: dict[str, list[bytes]] = {}  # command -> what it says, in the chunks in which it comes

    # ---- the port ----------------------------------------------------------------------------------------

    def open_shell(self, where: GuestAddress, patience: Patience) -> GuestShell:
        machine = self._reach(where, patience)
        self._check_host_key(machine, where)
        shell = FakeGuestShell(self, where.name, machine)
        self.shells.append(shell)
        return shell

    def await_ssh(self, where: GuestAddress, patience: Patience) -> None:
        self._reach(where, patience)

    def await_answer(self, probe: Probe, where: GuestAddress, port: int, patience: Patience) -> None:
        self._reach(where, patience)
        if probe.command is not None:
            try:
                self.execute(where.name, probe.command)
            except GuestError as error:
                raise NeverReady(error.message) from error

    # ---- what happens to guests --------------------------------------------------------------------------

    def hold(self, member: str) -> None:
        """The guest of this member hangs."""
        self._held.add(member)

    def let_go(self, member: str) -> None:
        self._held.discard(member)

    def finish_setup(self, member: str) -> None:
        """First boot's setup; raises SetupFailed where it goes wrong."""

    def hear_phase(self, member: str) -> None:
        """The guest is told its phase over SSH; raises GuestError where that goes wrong."""

    def execute(self, member: str, command: str) -> None:
        """A command in the guest; raises GuestError where it goes wrong."""

    def commands(self, member: str) -> list[str]:
        return [command for shell in self.shells if shell.member == member for command in shell.commands]

    # ---- parts -------------------------------------------------------------------------------------------

    def _reach(self, where: GuestAddress, patience: Patience) -> FakeMachine:
        self._count_waiting(where.name, 1)
        try:
            return self._wait_for(where, patience)
        finally:
            self._count_waiting(where.name, -1)

    def _count_waiting(self, member: str, by: int) -> None:
        with self._counting:
            self.waiting[member] += by

    def _wait_for(self, where: GuestAddress, patience: Patience) -> FakeMachine:
        give_up = time.monotonic() + REAL_SECONDS
        while True:
            if patience.is_cancelled():
                raise Interrupted(f"{where.name} is no longer waited for")
            if self._clock.monotonic() >= patience.deadline:
                raise NeverReady(f"{where.name} does not answer in time")
            machine = self._find(where)
            if machine is not None and where.name not in self._held:
                return machine
            if time.monotonic() >= give_up:
                raise AssertionError(f"{where.name} was waited for during {REAL_SECONDS} s of real time")
            self._clock.rest()

    def _find(self, where: GuestAddress) -> FakeMachine | None:
        found = (host.running_at(where.name, where.address) for host in self._hosts)
        return next((machine for machine in found if machine is not None), None)

    def _check_host_key(self, machine: FakeMachine, where: GuestAddress) -> None:
        """The guest shows the key of its seed, as a real one does."""
        if machine.seed is None:
            raise GuestError(f"{where.name} has no SSH")
        if where.host_key not in (machine.told or machine.seed.decode()):
            raise GuestError(f"{where.name} shows another host key than {where.host_key}")


@dataclass
class FakeGuestShell:
    """One session; remembers what was asked."""

    guest: FakeGuest
    member: str
    machine: FakeMachine
    commands: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)  # those that were given
    uploads: list[Path] = field(default_factory=list)
    is_closed: bool = False

    def await_setup(self, patience: Patience) -> None:
        self.guest.finish_setup(self.member)

    def run(
        self,
        command: str,
        patience: Patience,
        listen: Listen | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.commands.append(command)
        if environment is not None:
            self.environments.append(environment)
        if listen is not None:
            for chunk in self.guest.outputs.get(command, ()):
                listen(chunk)
        self.guest.execute(self.member, command)

    def tell_phase(self, phase: GuestPhase, patience: Patience) -> None:
        self.guest.hear_phase(self.member)
        self.machine.reads = phase.value

    def run_script(self, script: str, arguments: Sequence[str], patience: Patience) -> None:
        self.run(" ".join(("script:", *arguments)), patience)

    def set_clock(self, now: float, patience: Patience) -> None:
        self.run(f"date -u -s @{round(now)}", patience)

    def upload(self, archive: Path, patience: Patience) -> None:
        if not archive.exists():
            raise GuestError(f"cannot upload to {self.member}: {archive} is missing")
        self.uploads.append(archive)

    def close(self) -> None:
        self.is_closed = True


class GuestThatNeverBoots(FakeGuest):
    """Whatever waits for it comes to its deadline, in no time."""

    def _wait_for(self, where: GuestAddress, patience: Patience) -> FakeMachine:
        return super()._wait_for(where, replace(patience, deadline=self._clock.monotonic()))


class GuestWithFailingSetup(FakeGuest):
    """The setup of the next `failures` machines ends with an error."""

    failures = 1

    def finish_setup(self, member: str) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise SetupFailed(f"setup of {member} failed: no package named wbe")


class ScriptedGuest(FakeGuest):
    """Commands named in `errors` fail, once for each text."""

    def __init__(self, clock: FakeClock, *hosts: FakeHypervisor) -> None:
        super().__init__(clock, *hosts)
        self.errors: dict[str, list[str]] = {}

    def execute(self, member: str, command: str) -> None:
        if self.errors.get(command):
            raise GuestError(f"in {member}, {command!r} ended with status 1: {self.errors[command].pop(0)}")


# ---- identity and seed ---------------------------------------------------------------------------------------


class FakeIdentities:
    """Suffixes 00001, 00002 …, after those given; a host key that names its machine."""

    def __init__(self, *first: str) -> None:
        self._first = list(first)
        self._count = 0
        self._drawn = 0
        self._lock = threading.Lock()

    def member_suffix(self) -> str:
        with self._lock:
            if self._first:
                return self._first.pop(0)
            self._count += 1
            return f"{self._count:05}"

    def entropy(self) -> bytes:
        with self._lock:
            self._drawn += 1
            return self._drawn.to_bytes(64)

    def host_key(self, machine_uuid: str) -> tuple[str, str]:
        body = base64.b64encode(hashlib.sha256(machine_uuid.encode()).digest()).decode()
        return f"PRIVATE KEY OF {machine_uuid}\n", f"ssh-ed25519 {body}"


class FakeSeedWriter:
    """A seed is the JSON of its files; `read_seed` takes it apart again."""

    def write(self, label: str, files: Mapping[str, bytes]) -> bytes:
        texts = {name: content.decode() for name, content in files.items()}
        return json.dumps({"label": label, "files": texts}).encode()


def read_seed(seed: bytes | None) -> dict[str, str]:
    """File name -> text."""
    assert seed is not None
    files = json.loads(seed)["files"]
    return {str(name): str(text) for name, text in files.items()}


def image_file(folder: Path, content: bytes = b"a base disk") -> tuple[Path, str]:
    """A file as the image repository keeps it, and its digest."""
    digest = hashlib.sha256(content).hexdigest()
    file = folder / f"{digest}.qcow2"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file, digest


def all_domains(hosts: Iterable[FakeHypervisor]) -> list[str]:
    """Names of every machine of ours; a name that is there twice is a double."""
    return sorted(domain for host in hosts for domain in host.machines)
