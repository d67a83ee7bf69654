"""One installation, put together from its state directory. Parts are made on first use: a command pays only for
what it needs."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.ledger import Ledger
from orchestrator.config.paths import StatePaths
from orchestrator.config.settings import HostSettings, Settings, load_settings
from orchestrator.drivers.keys import SecretIdentities, SystemClock, ensure_operator_key
from orchestrator.errors import Conflict, NotFound, SpecError
from orchestrator.models.sightings import BalancerSighting, Observed
from orchestrator.planner import Desired, Limits
from orchestrator.planner.strangers import FIX, stranger_words, strangers
from orchestrator.service.hold import why_store_is_held
from orchestrator.service.identity import ensure_identity
from orchestrator.store import Fence, Lease, Store, open_store
from orchestrator.store.departed import find_departed

if TYPE_CHECKING:
    from orchestrator.apply.addressing import Addressing
    from orchestrator.apply.executor import Executor
    from orchestrator.drivers.haproxy import HaproxyBalancer
    from orchestrator.drivers.libvirt import LibvirtConnection, LibvirtHost
    from orchestrator.drivers.libvirt.accelerator import Accelerator
    from orchestrator.drivers.libvirt.volumes import Volumes
    from orchestrator.imaging.repository import Repository
    from orchestrator.models.spec import Firmware
    from orchestrator.reconcile.controller import Controller
    from orchestrator.reconcile.lookout import Lookout
    from orchestrator.service.declare import Surroundings


class Runtime:
    """Parts of the installation at `root`."""

    def __init__(self, root: Path) -> None:
        self.paths = StatePaths(root.absolute())
        self.clock = SystemClock()
        self._installation = ""
        self._probing = threading.Lock()

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.paths.settings)

    @cached_property
    def store(self) -> Store:
        self.paths.ensure()
        url = self.settings.store or f"sqlite:///{self.paths.database}"
        opened = open_store(url, self.clock.now)
        self._installation = ensure_identity(opened, self.paths.identity)
        return opened

    @property
    def installation(self) -> str:
        self.store  # noqa: B018 - the name is known once the store is open
        return self._installation

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.paths.declarations, self.paths.image_records)

    @cached_property
    def repository(self) -> Repository:
        from orchestrator.imaging.repository import Repository

        return Repository(self.store, self.ledger, self.paths)

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
        from orchestrator.drivers.libvirt.host import LibvirtHost
        from orchestrator.drivers.libvirt.ownership import HostIdentity

        return {
            host.name: LibvirtHost(
                HostIdentity(host.name, host.zone, self.settings.prefix, self.installation),
                self.connections[host.name],
                self.volumes[host.name],
                lambda host=host: self.accelerator(host).kind,  # type: ignore[misc]
                self.settings.limits.golden_free,
                self._known_accelerator(host),
            )
            for host in self.settings.hosts
        }

    def host(self, name: str) -> LibvirtHost:
        """The host of a record. Raises NotFound if it is not configured any more."""
        if name not in self.hosts:
            known = ", ".join(self.hosts) or "none"
            raise NotFound(
                f"host {name!r} is not configured any more", f"add it to config.toml again; hosts: {known}"
            )
        return self.hosts[name]

    def accelerator(self, host: HostSettings, again: bool = False) -> Accelerator:
        """Remembered for each host and its versions; `again` finds out anew. Raises HostError."""
        from orchestrator.drivers.libvirt.accelerator import Accelerator

        if host.accelerator != "auto":
            return Accelerator(host.accelerator, "set in config.toml")
        with self._probing:
            return self._find_accelerator(host, again)

    def _known_accelerator(self, host: HostSettings) -> str:
        """As configured, or as found out the last time, whatever the versions were; empty if it never was."""
        if host.accelerator != "auto":
            return host.accelerator
        known = self.store.read_fact(_accelerator_key(host))
        return str(known["kind"]) if known else ""

    def _find_accelerator(self, host: HostSettings, again: bool) -> Accelerator:
        from orchestrator.drivers.libvirt.accelerator import Accelerator, find_accelerator

        connection = self.connections[host.name].get()
        versions = f"{connection.getLibVersion()}/{connection.getVersion()}"
        key = _accelerator_key(host)
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
        from orchestrator.apply.executor import Executor
        from orchestrator.apply.fenced import FencedHosts
        from orchestrator.apply.world import Installation, World
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
        from orchestrator.reconcile.controller import Controller
        from orchestrator.reconcile.parts import ControllerParts
        from orchestrator.store.records import Recorder

        self.repository.keep_records()
        parts = ControllerParts(
            store=self.store,
            recorder=Recorder(self.store, self.identities.member_suffix, self.addressing.candidates, self.fence),
            executor=self.executor,
            hosts=self.hosts,
            balancer=self.balancer,
            lease=self.lease,
            fence=self.fence,
            clock=self.clock,
            ledger=self.ledger,
        )
        parallel = self.settings.limits.parallel
        return Controller(parts, self.limits, self.settings.prefix, parallel, self.addressing.capacity())

    # ---- looking -----------------------------------------------------------------------------------------

    def desired(self, observed: Observed | None = None) -> Desired:
        """`observed`: with which of the machines seen there were let go."""
        snapshot = self.store.snapshot()
        return Desired(
            snapshot.sets,
            snapshot.members,
            self.settings.prefix,
            self.limits,
            drives=snapshot.drives,
            departed=find_departed(self.store, snapshot.members, self.settings.prefix, observed)
            if observed is not None
            else frozenset(),
            hold=why_store_is_held(self.store, self.ledger, snapshot),
        )

    def why_held(self, look: bool = True) -> str:
        """Why nothing may be done before `adopt`; empty if nothing stands in the way. `look`: at the hosts too."""
        hold = self.desired().hold
        if hold or not look:
            return hold
        observed = Observed(self.lookout.look(), BalancerSighting(running=False))
        # After the look, because a controller may have made machines meanwhile.
        desired = self.desired(observed)
        found = strangers(desired, observed)
        return stranger_words(found) if found else desired.hold

    def refuse_if_held(self, look: bool = True) -> None:
        """Raises Conflict naming `adopt`."""
        why = self.why_held(look)
        if why:
            raise Conflict(f"nothing is done: {why}", FIX)

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


def _accelerator_key(host: HostSettings) -> str:
    """Of the fact that remembers it."""
    return f"accelerator:{host.uri}"
