"""One installation, put together from its state directory. Parts are made on first use: a command pays only for
what it needs."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.paths import StatePaths
from orchestrator.config.settings import HostSettings, Settings, load_settings
from orchestrator.drivers.keys import SecretIdentities, SystemClock, ensure_operator_key
from orchestrator.errors import SpecError
from orchestrator.models.sightings import Observed
from orchestrator.planner import Desired, Limits
from orchestrator.store import Fence, Lease, Store, open_store

if TYPE_CHECKING:
    from orchestrator.apply.addressing import Addressing
    from orchestrator.apply.executor import Executor
    from orchestrator.drivers.haproxy import HaproxyBalancer
    from orchestrator.drivers.libvirt import LibvirtConnection, LibvirtHost
    from orchestrator.drivers.libvirt.accelerator import Accelerator
    from orchestrator.drivers.libvirt.volumes import Volumes
    from orchestrator.models.spec import Firmware
    from orchestrator.reconcile.controller import Controller
    from orchestrator.reconcile.lookout import Lookout
    from orchestrator.service.declare import Surroundings


class Runtime:
    """Parts of the installation at `root`."""

    def __init__(self, root: Path) -> None:
        self.paths = StatePaths(root.absolute())
        self.clock = SystemClock()
        self._probing = threading.Lock()

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.paths.settings)

    @cached_property
    def store(self) -> Store:
        self.paths.ensure()
        url = self.settings.store or f"sqlite:///{self.paths.database}"
        return open_store(url, self.clock.now)

    @cached_property
    def installation(self) -> str:
        return self.store.installation()

    @cached_property
    def limits(self) -> Limits:
        limits = self.settings.limits
        return Limits(
            retry_pause=limits.retry_pause,
            retry_pause_max=limits.retry_pause_max,
            repair_patience=limits.repair_patience,
            memory_ratio=limits.memory_ratio,
        )

    @cached_property
    def lease(self) -> Lease:
        return Lease(self.store)

    @cached_property
    def fence(self) -> Fence:
        return Fence(self.lease)

    # ---- hosts -------------------------------------------------------------------------------------------

    @cached_property
    def connections(self) -> dict[str, LibvirtConnection]:
        from orchestrator.drivers.libvirt import LibvirtConnection

        return {host.name: LibvirtConnection(host.uri) for host in self.settings.hosts}

    @cached_property
    def volumes(self) -> dict[str, Volumes]:
        from orchestrator.drivers.libvirt.volumes import Volumes

        pool = self.settings.prefix
        return {
            host.name: Volumes(self.connections[host.name], pool, Path(host.pool_path or self.paths.volumes))
            for host in self.settings.hosts
        }

    @cached_property
    def hosts(self) -> dict[str, LibvirtHost]:
        from orchestrator.drivers.libvirt.host import HostIdentity, LibvirtHost

        return {
            host.name: LibvirtHost(
                HostIdentity(host.name, host.zone, self.settings.prefix, self.installation),
                self.connections[host.name],
                self.volumes[host.name],
                lambda host=host: self.accelerator(host).kind,  # type: ignore[misc]
            )
            for host in self.settings.hosts
        }

    def accelerator(self, host: HostSettings, again: bool = False) -> Accelerator:
        """Remembered for each host and its versions; `again` finds out anew. Raises HostError."""
        from orchestrator.drivers.libvirt.accelerator import Accelerator

        if host.accelerator != "auto":
            return Accelerator(host.accelerator, "set in config.toml")
        with self._probing:
            return self._find_accelerator(host, again)

    def _find_accelerator(self, host: HostSettings, again: bool) -> Accelerator:
        from orchestrator.drivers.libvirt.accelerator import Accelerator, find_accelerator

        connection = self.connections[host.name].get()
        versions = f"{connection.getLibVersion()}/{connection.getVersion()}"
        key = f"accelerator:{host.uri}"
        known = self.store.read_fact(key)
        if known and known["versions"] == versions and not again:
            return Accelerator(known["kind"], known["why"], known["seconds"])
        found = find_accelerator(self.connections[host.name], self.volumes[host.name], self.settings.prefix)
        self.store.write_fact(key, {"versions": versions, **vars(found)})
        return found

    # ---- network, balancer, effects ----------------------------------------------------------------------

    @cached_property
    def addressing(self) -> Addressing:
        """Raises SpecError, NotFound or HostError if the configured network cannot be used."""
        from orchestrator.apply.addressing import network_addressing, user_addressing

        network = self.settings.network
        if network.mode == "user":
            return user_addressing(network.range, network.outbound)
        if not network.name:
            raise SpecError(f'{self.paths.settings}: network.mode "network" needs network.name')
        first = next(iter(self.hosts.values()))
        allotted = network.range if "range" in network.model_fields_set else ""
        ours = [member.address for member in self.store.snapshot().members]
        subnet = first.describe_network(network.name, network.filter)
        addressing = network_addressing(network.name, subnet, allotted, ours)
        return replace(addressing, filter=network.filter)

    @cached_property
    def balancer(self) -> HaproxyBalancer:
        from orchestrator.config.resources import template
        from orchestrator.drivers.haproxy import HaproxyBalancer

        self.paths.ensure()
        return HaproxyBalancer(self.paths.haproxy, template("haproxy.cfg.j2"))

    @cached_property
    def executor(self) -> Executor:
        from orchestrator.apply.executor import Executor, Installation, World
        from orchestrator.apply.fenced import FencedHosts
        from orchestrator.drivers.guest import NetworkGuest
        from orchestrator.drivers.seed_iso import IsoSeedWriter

        operator = ensure_operator_key(self.paths.operator_key)
        installation = Installation(
            name=self.installation,
            prefix=self.settings.prefix,
            operator_key=operator,
            images=self.paths.images,
            uploads=self.paths.uploads,
            secrets=self.paths.secrets,
            addressing=self.addressing,
            shutdown_timeout=self.settings.limits.shutdown_timeout,
        )
        hosts, guest = FencedHosts(self.hosts, self.fence.check), NetworkGuest(self.paths.operator_key)
        return Executor(installation, World(hosts, guest, IsoSeedWriter(), self.identities, self.clock))

    @cached_property
    def identities(self) -> SecretIdentities:
        self.paths.ensure()
        return SecretIdentities(self.paths.keys / "identity.secret")

    def controller(self) -> Controller:
        """A controller of this installation; it does nothing until it is run."""
        from orchestrator.reconcile.controller import Controller, ControllerParts
        from orchestrator.store.records import Recorder

        parts = ControllerParts(
            store=self.store,
            recorder=Recorder(self.store, self.identities.member_suffix, self.addressing.candidates, self.fence),
            executor=self.executor,
            hosts=self.hosts,
            balancer=self.balancer,
            lease=self.lease,
            fence=self.fence,
            clock=self.clock,
        )
        parallel = self.settings.limits.parallel
        return Controller(parts, self.limits, self.settings.prefix, parallel, self.addressing.capacity())

    # ---- looking -----------------------------------------------------------------------------------------

    def desired(self) -> Desired:
        snapshot = self.store.snapshot()
        return Desired(snapshot.sets, snapshot.members, self.settings.prefix, self.limits, drives=snapshot.drives)

    @cached_property
    def lookout(self) -> Lookout:
        from orchestrator.reconcile.lookout import Lookout

        return Lookout(self.hosts)

    def observe(self) -> Observed:
        return Observed(self.lookout.look(), self.balancer.observe())

    def surroundings(self) -> Surroundings:
        from orchestrator.service.declare import Surroundings

        sightings = tuple(self.lookout.look().values())
        return Surroundings(
            sightings, self.limits.memory_ratio, self.balancer.why_not_bindable, self._why_no_firmware
        )

    def _why_no_firmware(self, firmware: Firmware, zones: tuple[str, ...] | None) -> str:
        """What the first host that cannot give it lacks: a machine may be placed on any of these zones."""
        hosts = [host for host in self.hosts.values() if zones is None or host.zone in zones]
        lacks = ((host.name, host.why_no_firmware(firmware)) for host in hosts)
        return next((f"host {name}: {why}" for name, why in lacks if why), "")

    def close(self) -> None:
        """Let go of connections; what was never made stays unmade."""
        for host in self.__dict__.get("hosts", {}).values():
            host.close()
        if "store" in self.__dict__:
            self.store.close()
