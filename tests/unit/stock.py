"""The site of the loop tests, audited: stock taken of its fakes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from orchestrator.config.ledger import Ledger
from orchestrator.errors import HostUnreachable
from orchestrator.models.naming import overlay_volume
from orchestrator.models.stock import DomainStock, HostStock, Remnant, Reservation, StateStock
from orchestrator.reconcile.lookout import Lookout
from orchestrator.service.audit import Audit, AuditParts
from orchestrator.store import Lease
from tests.builders import PREFIX
from tests.fakes import FakeClock, FakeHypervisor
from tests.unit.loop import Site

POOL = "/pool"


class FakeStockroom:
    """What a fake host has; `reservations`, `remnants` and `probe` besides."""

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host
        self.is_mute = False
        self.reservations: list[Reservation] = []
        self.remnants: list[Remnant] = []
        self.probe: DomainStock | None = None
        self.others: list[DomainStock] = []  # with names that do not begin as ours do
        self.removed: list[str] = []
        self.on_remove: Callable[[], None] = lambda: None

    def take_stock(self) -> HostStock:
        if self.is_mute:
            raise HostUnreachable(f"{self._host.name} does not answer: connection reset")
        domains = {name: self._stock_of(name) for name in self._host.machines}
        domains |= {name: DomainStock(name, f"uuid of {name}") for name in self._host.foreign}
        if self.probe is not None:
            domains[self.probe.name] = self.probe
        return HostStock(
            name=self._host.name,
            domains=domains,
            volumes={name: f"{POOL}/{name}" for name in self._host.volumes},
            pool=POOL,
            reservations=tuple(self.reservations),
            remnants=tuple(self.remnants),
            seeds=frozenset(name for name, held in self._host.volumes.items() if name.endswith(".iso") and held),
            logs={name: f"{POOL}/consoles/{name}" for name in self._host.consoles},
            in_use=frozenset(path for one in (*domains.values(), *self.others) for path in one.files),
        )

    def _stock_of(self, name: str) -> DomainStock:
        machine = self._host.machines[name]
        made = machine.blueprint
        files = {overlay_volume(name, made.incarnation), *machine.disks, *machine.live} | ({machine.golden} - {""})
        paths = frozenset(f"{POOL}/{one}" for one in files)
        return DomainStock(name, made.uuid, made.installation, made.member, made.incarnation, paths)

    def remove_volume(self, name: str) -> None:
        self.on_remove()
        self.removed.append(name)
        del self._host.volumes[name]

    def remove_log(self, name: str) -> None:
        self.removed.append(name)
        del self._host.consoles[name]

    def remove_reservation(self, reservation: Reservation) -> None:
        self.reservations.remove(reservation)

    def remove_remnant(self, remnant: Remnant) -> None:
        self.remnants.remove(remnant)

    def remove_probe(self) -> None:
        self.probe = None


@dataclass
class FakeRooms:
    state: StateStock

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        yield

    def take_stock(self) -> StateStock:
        return self.state

    def remove_image(self, digest: str) -> None:
        self.state = replace(self.state, images=self.state.images - {digest})

    def remove_scratch(self, name: str) -> None:
        self.state = replace(self.state, scratch=self.state.scratch - {name})

    def remove_upload(self, name: str) -> None:
        self.state = replace(self.state, uploads=self.state.uploads - {name})

    def remove_secret(self, name: str) -> None:
        self.state = replace(self.state, secrets=self.state.secrets - {name})

    def remove_copy(self, name: str) -> None:
        self.state = replace(self.state, copies=self.state.copies - {name})


@dataclass
class FakeProcesses:
    strays: list[int] = field(default_factory=list)

    def find_strays(self) -> tuple[int, ...]:
        return tuple(self.strays)

    def end_stray(self, process: int) -> None:
        self.strays.remove(process)


class BusyClock(FakeClock):
    """`meanwhile` happens while somebody rests: what work under way does between two looks."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.meanwhile = meanwhile
        self.rested: list[float] = []

    def rest(self, seconds: float = 0.0) -> None:
        self.rested.append(seconds)
        self.meanwhile()


@dataclass
class AuditedSite:
    """An audit of a site, and the parts of it that tests change."""

    site: Site
    rooms: FakeRooms
    processes: FakeProcesses
    stockrooms: dict[str, FakeStockroom]
    clock: BusyClock
    audit: Audit = field(init=False)
    hear: Callable[[str], None] = lambda _words: None

    @property
    def room(self) -> FakeStockroom:
        return next(iter(self.stockrooms.values()))

    def found(self) -> list[tuple[str, str, str]]:
        """(kind, fault, name) of what an examination finds."""
        return [(one.kind.value, one.fault.value, one.name) for one in self.audit.examine().findings]

    def mend(self) -> list[tuple[str, str, str]]:
        """The same of what is left when everything that can be was put right."""
        report = self.audit.examine()
        assert all(not one.failure for one in self.audit.mend(report))
        return self.found()


def audited(site: Site) -> AuditedSite:
    site.crash()  # nobody else has the lease
    images = frozenset(one.digest for one in site.store.list_images())
    rooms, processes, clock = FakeRooms(StateStock(images=images)), FakeProcesses(), BusyClock()
    stockrooms = {name: FakeStockroom(host) for name, host in site.hosts.items()}
    for host in site.hosts.values():
        # The fake knows no marks: its uploads are whole.
        for name in [name for name in host.volumes if "-image-" in name]:
            host.volumes[f"{name}.verified"] = b""
    parts = AuditParts(
        store=site.store,
        lease=Lease(site.store, holder="audit"),
        clock=clock,
        look=Lookout(site.hosts, 5.0).look,
        hosts=site.hosts,
        stockrooms=stockrooms,
        balancer=site.balancer,
        processes=processes,
        rooms=rooms,
        ledger=site.ledger or Ledger(site.folder / "declarations", site.folder / "image-records"),
        prefix=PREFIX,
        limits=site.limits,
    )
    seen = AuditedSite(site, rooms, processes, stockrooms, clock)
    seen.audit = Audit(parts, lambda words: seen.hear(words))
    return seen
