"""The Hypervisor port on one libvirtd."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.base_images import BaseImages
from orchestrator.drivers.libvirt.cards import Cards, set_link
from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.console_logs import ConsoleLogs
from orchestrator.drivers.libvirt.disks import LibvirtDisks
from orchestrator.drivers.libvirt.domains import (
    find_domain,
    force_off,
    is_active,
    is_running,
    undefine,
    unless_active,
)
from orchestrator.drivers.libvirt.errors import from_libvirt, translated
from orchestrator.drivers.libvirt.files_at_stake import NamedFiles, check_disks, find_others_files
from orchestrator.drivers.libvirt.filters import Filters
from orchestrator.drivers.libvirt.firmware import why_no_firmware
from orchestrator.drivers.libvirt.forks import Forks, is_fork, is_nobody
from orchestrator.drivers.libvirt.golden import Goldens
from orchestrator.drivers.libvirt.golden_files import Golden
from orchestrator.drivers.libvirt.guest_agent import agent_socket, ask_agent
from orchestrator.drivers.libvirt.guest_text import printable
from orchestrator.drivers.libvirt.host_memory import read_memory
from orchestrator.drivers.libvirt.machine_view import MachineView
from orchestrator.drivers.libvirt.networks import Networks
from orchestrator.drivers.libvirt.ownership import HostIdentity, check_owner, write_tag
from orchestrator.drivers.libvirt.power_button import PowerButton
from orchestrator.drivers.libvirt.resumes import Resumes
from orchestrator.drivers.libvirt.seeds import Seeds
from orchestrator.drivers.libvirt.snapshot_watch import SnapshotWatch
from orchestrator.drivers.libvirt.survey import survey_host
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import (
    GoldenUnusable,
    HostFull,
    HostUnreachable,
    Interrupted,
    UnderstudyError,
)
from orchestrator.models.adoption import HostSurvey
from orchestrator.models.golden import GoldenImage
from orchestrator.models.machine import Blueprint, Subnet
from orchestrator.models.members import Image
from orchestrator.models.naming import image_volume, overlay_volume, seed_volume
from orchestrator.models.ownership import OwnerTag
from orchestrator.models.sightings import HostSighting
from orchestrator.models.spec import Firmware
from orchestrator.render.domain import MachineFiles, render_domain


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
        self._logs = ConsoleLogs(connection.uri, volumes.directory)
        self._files = NamedFiles(volumes, self._logs, identity.prefix, self._others_files)
        self.disks = LibvirtDisks(connection, volumes, identity.prefix, identity.installation)
        self._networks = Networks(connection)
        self._filters = Filters(connection)
        self._cards = Cards(connection, self._networks, self._filters)
        self._images = BaseImages(volumes, identity.prefix, connection.is_privileged)
        self._seeds = Seeds(connection, volumes, identity.installation)
        self._goldens = Goldens(connection, volumes, identity, golden_free)
        self._forks = Forks(connection, volumes, self.disks, self._goldens, self._cards)
        self._accelerator = accelerator
        self._accelerated_by = known
        self._view = MachineView(identity)
        self._rebooted: set[str] = set()
        self._resumes = Resumes()
        self._changed = threading.Condition()
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
            machines=self._view.find(connection, rebooted),
            goldens=self._goldens.models(),
            golden_remnants=self._goldens.remnants(),
        )

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
        self._images.ensure(image, file)

    def remove_image(self, digest: str) -> None:
        with translated(f"cannot remove image {digest[:12]} on {self._connection.uri}"):
            self._images.remove(digest, self._others_files)

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
            unless_active(domain, domain.create)
            return
        if not domain.isActive():
            if domain.hasManagedSaveImage():
                unless_active(domain, domain.create)
            else:
                unless_active(domain, lambda: self._cards.start_held(domain, blueprint.nic, blueprint.member))
        self._cards.let_up(domain)

    def _is_there(self, blueprint: Blueprint) -> bool:
        """That very body, and now it runs. Whatever else had its name is removed."""
        found = find_domain(self._connection.get(), blueprint.domain)
        if found is None:
            if blueprint.incarnation > 1:
                # An earlier body that vanished left its disks.
                self._files.remove(blueprint.domain)
            return False
        owner = check_owner(found, self._identity.installation)
        if owner.incarnation == blueprint.incarnation:
            if not is_nobody(found):
                self._begin(found, blueprint)
                return True
            if blueprint.forked and is_running(found):
                return True
        self.destroy_machine(blueprint.domain)
        return False

    def _prepare(self, blueprint: Blueprint, seed: bytes | None, golden: Golden | None = None) -> str:
        """Its files; its XML, without further disks if it is a fork."""
        self._files.check(blueprint.domain)
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
            console=self._logs.make(domain, body),
            agent="" if self._connection.is_privileged else str(agent_socket(domain)),
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
            found = find_domain(self._connection.get(), domain)
            return found is not None and self._view.owner_of(found) is not None and is_fork(found)

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

            def explain() -> None:
                body = check_owner(found, self._identity.installation).incarnation
                check_disks(found, body, self.volumes)

            self._resumes.start(found, explain)

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

    def shut_down_machine(self, domain: str, deadline: float, cancelled: Callable[[], bool]) -> bool:
        with translated(f"cannot shut down {domain!r} on {self._connection.uri}"):
            found = self._get_ours(domain)
            end = time.monotonic() + deadline
            button, clean = PowerButton(found), True
            while is_active(found):
                if cancelled():
                    raise Interrupted(f"shutting down {domain} is no longer wanted")
                if time.monotonic() >= end:
                    clean = False
                    force_off(found)
                else:
                    button.press()
                with self._changed:
                    # A lifecycle event ends the wait; the bound is only there for an event that was lost.
                    self._changed.wait_for(lambda: not is_active(found), timeout=0.5)
            return clean

    def destroy_machine(self, domain: str) -> None:
        with translated(f"cannot remove {domain!r} on {self._connection.uri}"):
            found = find_domain(self._connection.get(), domain)
            if found is not None:
                owner = check_owner(found, self._identity.installation)
                force_off(found)
                undefine(self._connection.get(), found)
                self._networks.remove_reservations(owner.member)
                if not self._connection.is_privileged:
                    agent_socket(domain).unlink(missing_ok=True)
            self._files.remove(domain)

    def _others_files(self) -> dict[str, str]:
        return find_others_files(
            self._connection.get().listAllDomains(0), lambda one: self._view.owner_of(one) is not None
        )

    def mark_machine(self, domain: str, tag: OwnerTag) -> None:
        with translated(f"cannot mark {domain!r} on {self._connection.uri}"):
            write_tag(self._connection.get().lookupByName(domain), tag)

    def survey(self) -> HostSurvey:
        with translated(f"cannot look at {self._connection.uri}"):
            connection = self._connection.get()
            found = survey_host(connection, self.volumes, self._identity, self._view.find(connection, set()))
            return replace(found, logs=frozenset(self._logs.list_paths()))

    def console_tail(self, domain: str, incarnation: int, size: int = 4096) -> str:
        return printable(self._logs.tail(domain, incarnation, size).decode("utf-8", "replace"))

    def why_no_console_log(self) -> str:
        return self._logs.why_none()

    def ask_agent(self, domain: str, command: str, arguments: Mapping[str, object]) -> object:
        with translated(f"cannot ask the agent of {domain!r}"):
            found = self._get_ours(domain)
            return ask_agent(found, command, arguments)

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
