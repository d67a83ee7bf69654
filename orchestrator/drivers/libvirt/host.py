"""The Hypervisor port on one libvirtd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from orchestrator.drivers.libvirt.cards import Cards, set_link
from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.disks import LibvirtDisks
from orchestrator.drivers.libvirt.errors import from_libvirt, translated
from orchestrator.drivers.libvirt.files_at_stake import check_disks, check_volumes, find_others_files
from orchestrator.drivers.libvirt.filters import Filters
from orchestrator.drivers.libvirt.firmware import why_no_firmware
from orchestrator.drivers.libvirt.forks import Forks, is_fork, is_nobody
from orchestrator.drivers.libvirt.golden import Goldens
from orchestrator.drivers.libvirt.golden_files import Golden
from orchestrator.drivers.libvirt.networks import Networks
from orchestrator.drivers.libvirt.ownership import HostIdentity, Owner, check_owner, find_owner, write_tag
from orchestrator.drivers.libvirt.power_button import PowerButton, await_startup
from orchestrator.drivers.libvirt.seeds import Seeds
from orchestrator.drivers.libvirt.snapshot_watch import SnapshotWatch
from orchestrator.drivers.libvirt.survey import survey_host
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import (
    AgentAbsent,
    GoldenUnusable,
    GuestError,
    HostFull,
    HostUnreachable,
    Interrupted,
    UnderstudyError,
)
from orchestrator.models.adoption import HostSurvey
from orchestrator.models.golden import GoldenImage
from orchestrator.models.machine import Blueprint, Subnet
from orchestrator.models.members import Image
from orchestrator.models.naming import console_volume, domain_name, image_volume, overlay_volume, seed_volume
from orchestrator.models.ownership import OwnerTag
from orchestrator.models.sightings import HostSighting, MachineSighting, Power
from orchestrator.models.spec import Firmware
from orchestrator.render.domain import MachineFiles, render_domain

log = logging.getLogger("understudy.libvirt")

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
# A version of libvirt that does not know this flag removes a TPM's state without being told.
_UNDEFINE_TPM = getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0)
# Never wait for a job on one machine while looking at all of them.
_LOOK_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_RESUME_TRIES = 3  # what keeps a guest from going on where it was may pass: memory is short, a lock is held
_AGENT_SECONDS = 5  # an agent that takes longer is none
_AGENT_WORDS = 500  # characters of what it says of a failure
_NO_AGENT = (
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
)


_Signs = tuple[str, Mapping[str, int], bool]
"""UUID, libvirt's state, and whether its memory is saved: what tells whether a machine is as it was."""


class LibvirtHost:
    """One host. `accelerator` is asked whenever a machine is made, `known` is what it answered in the past, if it
    was asked; `golden_free` is the percentage of the storage pool's file system that golden images leave free."""

    def __init__(
        self,
        identity: HostIdentity,
        connection: LibvirtConnection,
        volumes: Volumes,
        accelerator: Callable[[], str],
        golden_free: int = 0,
        known: str = "",
    ) -> None:
        self._identity = identity
        self._connection = connection
        self.volumes = volumes
        self.disks = LibvirtDisks(connection, volumes, identity.prefix, identity.installation)
        self._networks = Networks(connection)
        self._filters = Filters(connection)
        self._cards = Cards(connection, self._networks, self._filters)
        self._seeds = Seeds(connection, volumes, identity.installation)
        self._goldens = Goldens(connection, volumes, identity, golden_free)
        self._forks = Forks(connection, volumes, self.disks, self._goldens, self._cards)
        self._accelerator = accelerator
        self._accelerated_by = known
        self._owners: dict[str, Owner | None] = {}
        self._seen: dict[str, tuple[_Signs, MachineSighting]] = {}  # at the last look: most is as it was
        self._rebooted: set[str] = set()
        self._failed_resumes: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._distributing = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        connection.watch(self._on_event, self._on_lost)

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def zone(self) -> str:
        return self._identity.zone

    # ---- looking -----------------------------------------------------------------------------------------

    def observe(self) -> HostSighting:
        try:
            with translated(f"cannot look at {self._connection.uri}"):
                return self._observe()
        except UnderstudyError as error:
            return HostSighting(self.name, self._identity.zone, answers=False, reason=error.message)

    def _observe(self) -> HostSighting:
        connection = self._connection.get()
        info = connection.getInfo()
        memory = read_memory(connection)
        with self._changed:
            rebooted, self._rebooted = self._rebooted, set()
        return HostSighting(
            name=self.name,
            zone=self._identity.zone,
            answers=True,
            memory_total=memory.total,
            memory_free=memory.available,
            cpus=int(info[2]),
            emulates=self._accelerated_by != "kvm" if self._accelerated_by else None,
            machines=self._find_machines(connection, rebooted),
            goldens=self._goldens.models(),
        )

    def _find_machines(self, connection: Any, rebooted: set[str]) -> dict[str, MachineSighting]:
        """Ours, by domain. `rebooted`: UUIDs of those whose guests restarted since the last look."""
        saved = {one.name() for one in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)}
        last, seen = self._seen, {}
        for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, _LOOK_FLAGS):
            name = domain.name()
            signs = (domain.UUIDString(), stats, name in saved)
            known = last.get(name)
            if known is None or known[0] != signs:
                machine = self._see(domain, stats, name in saved)
                if machine is None:
                    continue
                known = signs, machine
            seen[name] = known
        self._seen = seen
        return {
            name: replace(machine, rebooted=True) if signs[0] in rebooted else machine
            for name, (signs, machine) in seen.items()
        }

    def _see(self, domain: Any, stats: Mapping[str, int], is_saved: bool) -> MachineSighting | None:
        """None if it is not ours."""
        name = domain.name()
        owner = self._owner_of(domain) if name.startswith(f"{self._identity.prefix}-") else None
        # A copy that somebody made of our machine, under another name, has our tag too.
        if owner is None or name != domain_name(self._identity.prefix, owner.member):
            return None
        power = _power(stats.get("state.state", 0), stats.get("state.reason", 0))
        if power is Power.STOPPED and is_saved:
            power = Power.HIBERNATED
        halted = stats.get("state.state") == libvirt.VIR_DOMAIN_PAUSED and (
            stats.get("state.reason") == libvirt.VIR_DOMAIN_PAUSED_IOERROR
        )
        return MachineSighting(name, owner.member, owner.incarnation, power, halted=halted, forked=owner.forked)

    def _owner_of(self, domain: Any) -> Owner | None:
        """Cached by UUID: every incarnation has its own, and tags are written once."""
        uuid = domain.UUIDString()
        if uuid not in self._owners:
            self._owners[uuid] = find_owner(domain)
        owner = self._owners[uuid]
        return owner if owner is not None and owner.installation == self._identity.installation else None

    def why_no_firmware(self, firmware: Firmware) -> str:
        """What the host lacks for it; empty if nothing, or if it does not answer."""
        try:
            capabilities = self._connection.get().getDomainCapabilities(None, "x86_64", "q35", None)
        except HostUnreachable:
            return ""
        except libvirt.libvirtError as error:
            return from_libvirt(error, "cannot ask libvirt for its capabilities").message
        return why_no_firmware(capabilities, firmware)

    # ---- images ------------------------------------------------------------------------------------------

    def ensure_image(self, image: Image, file: Path) -> None:
        name = image_volume(self._identity.prefix, image.digest)
        # One upload for all machines that wait for it.
        with self._distributing:
            if self.volumes.find(f"{name}.verified") is None or not self.volumes.is_there(name):
                self._upload_image(name, image, file)

    def _upload_image(self, name: str, image: Image, file: Path) -> None:
        self.volumes.upload_file(name, file, image.digest, mode="0444" if self._is_privileged() else "0600")
        if not self._is_privileged():
            # An ordinary user's libvirtd cannot fill a file it may not write: the mode follows the content.
            Path(self.volumes.path_of(name)).chmod(0o444)
        self.volumes.refresh()
        self.volumes.make_filled(f"{name}.verified", b"")

    def remove_image(self, digest: str) -> None:
        name = image_volume(self._identity.prefix, digest)
        with translated(f"cannot remove image {digest[:12]} on {self._connection.uri}"):
            volume = self.volumes.find(name)
            if volume is not None and volume.path() in self._others_files():
                return
        self.volumes.remove(f"{name}.verified")
        self.volumes.remove(name)

    def _is_privileged(self) -> bool:
        return "/session" not in self._connection.uri

    # ---- machines ----------------------------------------------------------------------------------------

    def create_machine(self, blueprint: Blueprint, seed: bytes | None) -> None:
        with translated(f"cannot create {blueprint.domain!r} on {self._connection.uri}"):
            if self._is_there(blueprint):
                return
            domain = self._connection.get().defineXML(self._prepare(blueprint, seed))
            self._begin(domain, blueprint)

    def _begin(self, domain: Any, blueprint: Blueprint) -> None:
        """It runs, and its card is ready. It may have begun before."""
        if not blueprint.nic.network:
            self._start(domain)
            return
        if not domain.isActive():
            if domain.hasManagedSaveImage():
                self._start(domain)
            else:
                _unless_active(domain, lambda: self._cards.start_held(domain, blueprint.nic, blueprint.member))
        self._cards.let_up(domain)

    def _is_there(self, blueprint: Blueprint) -> bool:
        """That very body, and now it runs. Whatever else had its name is removed."""
        found = self._find_domain(blueprint.domain)
        if found is None:
            if blueprint.incarnation > 1:
                # An earlier body that vanished left its disks.
                self._remove_volumes(blueprint.domain)
            return False
        owner = check_owner(found, self._identity.installation)
        if owner.incarnation == blueprint.incarnation:
            if not is_nobody(found):
                self._begin(found, blueprint)
                return True
            if blueprint.forked and _runs(found):
                return True
        self.destroy_machine(blueprint.domain)
        return False

    def _prepare(self, blueprint: Blueprint, seed: bytes | None, golden: Golden | None = None) -> str:
        """Its files; its XML, without further disks if it is a fork."""
        check_volumes(blueprint.domain, self.volumes, self._others_files)
        files = self._make_files(blueprint, seed, golden)
        if blueprint.nic.network:
            self._cards.prepare(blueprint.nic)
        if golden is not None:
            blueprint, files = replace(blueprint, disks=()), replace(files, disks=())
        self._accelerated_by = self._accelerator()
        return render_domain(blueprint, files, self._accelerated_by)

    def _make_files(self, blueprint: Blueprint, seed: bytes | None, golden: Golden | None) -> MachineFiles:
        volumes, domain, body = self.volumes, blueprint.domain, blueprint.incarnation
        base = image_volume(self._identity.prefix, blueprint.image.digest)
        beneath, size = (base, blueprint.disk) if golden is None else (golden.disk.name, None)
        return MachineFiles(
            base=volumes.path_of(base),
            golden=str(golden.disk) if golden is not None else "",
            overlay=volumes.make_overlay(overlay_volume(domain, body), beneath, size),
            seed=volumes.make_filled(seed_volume(domain, body), seed) if seed is not None else "",
            console=volumes.make_filled(console_volume(domain, body), b""),
            agent="" if self._is_privileged() else str(_agent_socket(domain)),
            disks=self.disks.ensure(blueprint.disks, domain),
        )

    # ---- forks -------------------------------------------------------------------------------------------

    def take_golden(
        self, domain: str, incarnation: int, model: str, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        with translated(f"cannot take a golden image of {domain!r} on {self._connection.uri}"):
            found = self._get_ours(domain)
            if check_owner(found, self._identity.installation).incarnation != incarnation:
                raise GoldenUnusable(f"{domain!r} is no longer body {incarnation}")
            self._goldens.take(found, incarnation, model, SnapshotWatch(found, cancelled))

    def remove_golden(self, model: str) -> None:
        with translated(f"cannot remove the golden image of model {model} on {self._connection.uri}"):
            self._goldens.remove(model)

    def list_goldens(self) -> list[GoldenImage]:
        with translated(f"cannot look at {self._connection.uri}"):
            return self._goldens.list_all()

    def fork_machine(self, blueprint: Blueprint) -> None:
        forked = replace(blueprint, forked=True)
        with translated(f"cannot fork {blueprint.domain!r} on {self._connection.uri}"):
            if self._is_there(forked):
                return
            with self._goldens.found(blueprint.model) as golden, self._all_or_nothing(forked, golden):
                self._forks.go_on(forked, golden, self._prepare(forked, None, golden))

    @contextlib.contextmanager
    def _all_or_nothing(self, blueprint: Blueprint, golden: Golden) -> Iterator[None]:
        """Of a fork that does not go on nothing is left. Raises GoldenUnusable, unless it is the host's fault."""
        try:
            yield
        except (libvirt.libvirtError, OSError, GoldenUnusable) as error:
            self.destroy_machine(blueprint.domain)
            self._goldens.note_failure(golden)
            if isinstance(error, OSError):
                raise GoldenUnusable(f"{blueprint.domain!r} cannot be forked: {error.strerror}") from error
            if isinstance(error, libvirt.libvirtError):
                why = from_libvirt(error, f"{blueprint.domain!r} cannot be forked")
                raise why if isinstance(why, HostFull) else GoldenUnusable(why.message, why.fix) from error
            raise
        except BaseException:
            self.destroy_machine(blueprint.domain)
            raise
        self._goldens.note_success(golden)

    def is_fork(self, domain: str) -> bool:
        with translated(f"cannot look at {domain!r} on {self._connection.uri}"):
            found = self._find_domain(domain)
            return found is not None and self._owner_of(found) is not None and is_fork(found)

    def set_link(self, domain: str, up: bool) -> None:
        with translated(f"cannot set the link of {domain!r} on {self._connection.uri}"):
            found = self._get_ours(domain)
            if up:
                self._forks.let_up(found)
            else:
                set_link(found, up=False)

    # ---- machines that are there -------------------------------------------------------------------------

    def remove_seed(self, domain: str, incarnation: int) -> None:
        self._seeds.remove(domain, incarnation)

    def start_machine(self, domain: str) -> None:
        with translated(f"cannot start {domain!r} on {self._connection.uri}"):
            found = self._get_ours(domain)
            try:
                self._start(found)
            except libvirt.libvirtError as error:
                check_disks(found, check_owner(found, self._identity.installation).incarnation, self.volumes)
                if not found.hasManagedSaveImage():
                    raise
                self._failed_resumes[domain] += 1
                if self._failed_resumes[domain] < _RESUME_TRIES:
                    raise
                # A memory image that cannot be read costs the memory, not the machine.
                log.warning("%s cannot go on where it was hibernated, and boots: %s", domain, error)
                found.managedSaveRemove()
                self._start(found)
            self._failed_resumes.pop(domain, None)

    def resume_machine(self, domain: str) -> None:
        with translated(f"cannot let {domain!r} on {self._connection.uri} go on"):
            found = self._get_ours(domain)
            if found.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                found.resume()

    def hibernate_machine(self, domain: str) -> None:
        with translated(f"cannot hibernate {domain!r} on {self._connection.uri}"):
            found = self._get_ours(domain)
            if found.isActive():
                found.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)

    def _start(self, domain: Any) -> None:
        _unless_active(domain, domain.create)

    def shut_down_machine(self, domain: str, deadline: float, cancelled: Callable[[], bool]) -> bool:
        with translated(f"cannot shut down {domain!r} on {self._connection.uri}"):
            found = self._get_ours(domain)
            end = time.monotonic() + deadline
            button, clean = PowerButton(found), True
            while _is_active(found):
                if cancelled():
                    raise Interrupted(f"shutting down {domain} is no longer wanted")
                if time.monotonic() >= end:
                    clean = False
                    self._force_off(found)
                else:
                    button.press()
                with self._changed:
                    # A lifecycle event ends the wait; the bound is only there for an event that was lost.
                    self._changed.wait_for(lambda: not _is_active(found), timeout=0.5)
            return clean

    def destroy_machine(self, domain: str) -> None:
        with translated(f"cannot remove {domain!r} on {self._connection.uri}"):
            found = self._find_domain(domain)
            if found is not None:
                owner = check_owner(found, self._identity.installation)
                self._force_off(found)
                self._undefine(found)
                self._networks.remove_reservations(owner.member)
                if not self._is_privileged():
                    _agent_socket(domain).unlink(missing_ok=True)
            self._remove_volumes(domain)

    def _remove_volumes(self, domain: str) -> None:
        """Named after the machine; none that a domain of somebody else uses."""
        self.volumes.remove_all_of(domain, self._others_files())

    def _others_files(self) -> dict[str, str]:
        return find_others_files(
            self._connection.get().listAllDomains(0), lambda one: self._owner_of(one) is not None
        )

    def _force_off(self, domain: Any) -> None:
        try:
            await_startup(domain)
            domain.destroy()
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN)
            if error.get_error_code() not in gone:
                raise

    def _undefine(self, domain: Any) -> None:
        for flags in (_UNDEFINE | _UNDEFINE_TPM, _UNDEFINE):
            with contextlib.suppress(libvirt.libvirtError):
                domain.undefineFlags(flags)
            if self._find_domain(domain.name()) is None:
                return
        domain.undefine()

    def mark_machine(self, domain: str, tag: OwnerTag) -> None:
        with translated(f"cannot mark {domain!r} on {self._connection.uri}"):
            write_tag(self._connection.get().lookupByName(domain), tag)

    def survey(self) -> HostSurvey:
        with translated(f"cannot look at {self._connection.uri}"):
            connection = self._connection.get()
            return survey_host(connection, self.volumes, self._identity, self._find_machines(connection, set()))

    def console_tail(self, domain: str, incarnation: int, size: int = 4096) -> str:
        raw = self.volumes.read_tail(console_volume(domain, incarnation), size)
        return printable(raw.decode("utf-8", "replace"))

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        request = json.dumps({"execute": command, "arguments": dict(arguments)})
        with translated(f"cannot ask the agent of {domain!r}"):
            found = self._get_ours(domain)
            try:
                answer = libvirt_qemu.qemuAgentCommand(found, request, _AGENT_SECONDS, 0)
            except libvirt.libvirtError as error:
                kind = AgentAbsent if error.get_error_code() in _NO_AGENT else GuestError
                # It may quote the agent.
                words = printable(error.get_error_message())[:_AGENT_WORDS]
                raise kind(f"the agent of {domain!r}: {words}") from error
        return _returned(answer)

    def describe_network(self, name: str, filter_: str = "") -> Subnet:
        if filter_:
            self._filters.ensure(filter_)
        return self._networks.describe(name)

    def open_console(self, domain: str) -> Any:
        """A libvirt stream connected to the serial console; the caller reads, writes and finishes it."""
        with translated(f"cannot open the console of {domain!r}"):
            stream = self._connection.get().newStream(0)
            self._get_ours(domain).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            return stream

    def _find_domain(self, name: str) -> Any | None:
        try:
            return self._connection.get().lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _get_ours(self, name: str) -> Any:
        domain = self._connection.get().lookupByName(name)
        check_owner(domain, self._identity.installation)
        return domain

    # ---- events ------------------------------------------------------------------------------------------

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._listeners.append(on_change)
        with contextlib.suppress(HostUnreachable):
            self._connection.get()

    def close(self) -> None:
        self._connection.close()

    def _on_event(self, domain: Any, what: str) -> None:
        with self._changed:
            if what == "reboot":
                self._rebooted.add(domain.UUIDString())
            self._changed.notify_all()
        self._on_lost()

    def _on_lost(self) -> None:
        for listener in self._listeners:
            listener()


@dataclass(frozen=True)
class HostMemory:
    """Bytes. `available`: free memory and what the page cache would give up."""

    total: int
    available: int


def read_memory(connection: Any) -> HostMemory:
    """As the kernel has it now; the node information that libvirtd caches does not follow a balloon."""
    stats = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    available = sum(int(stats.get(key, 0)) for key in ("free", "buffers", "cached"))
    return HostMemory(int(stats["total"]) * 1024, available * 1024)


def _unless_active(domain: Any, start: Callable[[], object]) -> None:
    """Somebody else's start is as good."""
    try:
        start()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def _is_active(domain: Any) -> bool:
    """A machine that was undefined while it ran is gone once it is off."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise


def _runs(domain: Any) -> bool:
    return bool(domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)


def _power(state: int, reason: int) -> Power:
    if state in (libvirt.VIR_DOMAIN_CRASHED,):
        return Power.CRASHED
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        # A machine that could not be started (SHUTOFF_FAILED) is off: nothing in it went wrong.
        return Power.CRASHED if reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED else Power.STOPPED
    return Power.RUNNING


def _returned(answer: str) -> object:
    try:
        return json.loads(answer)["return"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GuestError("the guest agent's answer is not understood") from error


def _agent_socket(domain: str) -> Path:
    """The guest agent's socket in a user's own libvirt: the path that libvirt would choose lies below the home
    directory and easily exceeds the 107 bytes of unix(7)."""
    base = os.environ.get("XDG_RUNTIME_DIR") or str(Path.home() / ".cache")
    return Path(base) / "libvirt" / f"us-{hashlib.sha256(domain.encode()).hexdigest()[:10]}.agent"


_UNPRINTABLE = {code: None for code in range(128) if not (chr(code).isprintable() or chr(code) == "\n")}


def printable(text: str) -> str:
    """Console output made harmless: no escape sequences, no control characters but line ends."""
    text = text.replace("\r\n", "\n")
    if text.isascii():  # as nearly all is, and read many times a second while guests boot
        return text.translate(_UNPRINTABLE).strip()
    return "".join(char if char.isprintable() or char == "\n" else "" for char in text).strip()
