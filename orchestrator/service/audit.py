"""What exists against what should: counted twice, and what is left over is removed one thing at a time.

A finding is what two looks agree on, with a pause between them that is longer than work under way takes. To remove
something the controller lease is taken, if it is free, and there is one look more. Where a controller is at work,
HAProxy is left to it: two that change it undo each other's drains.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.config.ledger import Ledger
from orchestrator.errors import UnderstudyError
from orchestrator.models.audit import Finding, Kind, Remedy
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import HostSighting, Observed
from orchestrator.models.stock import HostStock, Stock
from orchestrator.models.volume_names import BodyVolume, parse_volume
from orchestrator.planner import Desired, Limits
from orchestrator.planner.audit import compare, needed_files
from orchestrator.planner.audit_hosts import Books
from orchestrator.planner.balancer import desired_balancer
from orchestrator.ports.balancer import Balancer
from orchestrator.ports.clock import Clock
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.ports.stock import BalancerProcesses, StateRooms, Stockroom
from orchestrator.service.hold import why_store_is_held
from orchestrator.store import Fence, Lease, Store
from orchestrator.store.lease import LEASE_TTL

OnProgress = Callable[[str], None]
Identity = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class AuditParts:
    """What an audit works with. `look` sees all hosts, with a deadline; `prefix` begins the names of ours."""

    store: Store
    lease: Lease
    clock: Clock
    look: Callable[[], Mapping[str, HostSighting]]
    hosts: Mapping[str, Hypervisor]
    stockrooms: Mapping[str, Stockroom]
    balancer: Balancer
    processes: BalancerProcesses
    rooms: StateRooms
    ledger: Ledger
    prefix: str
    limits: Limits


@dataclass(frozen=True)
class Report:
    """`unknown`: host -> why nothing of it was judged."""

    findings: tuple[Finding, ...]
    unknown: Mapping[str, str]
    is_worked_on: bool


@dataclass(frozen=True)
class Mended:
    """What became of a finding: `failure` is empty if it is put right."""

    finding: Finding
    failure: str = ""


class Audit:
    """`tell` hears what is being done."""

    def __init__(self, parts: AuditParts, tell: OnProgress) -> None:
        self._parts = parts
        self._tell = tell

    def examine(self) -> Report:
        """Changes nothing. Raises StoreError."""
        self._tell("taking stock")
        first, unknown, worked = self._look()
        if not first:
            return Report((), unknown, worked)
        pause = max(one.settles_in for one in first)
        self._tell(f"differences: {len(first)}; looking again in {pause:.0f} s, in case it is work under way")
        self._parts.clock.rest(pause)
        second, unknown, worked_then = self._look()
        both = {_identity(one) for one in first}
        agreed = tuple(one for one in second if _identity(one) in both)
        return Report(agreed, unknown, worked or worked_then)

    def mend(self, report: Report) -> list[Mended]:
        """Put right what the report names as fixable. What is not seen any more is right. Raises StoreError."""
        wanted = {_identity(one): one for one in report.findings if one.is_fixable}
        if not wanted:
            return []
        with self._alone() as is_alone:
            stock, books = self._count()
            seen = {_identity(one): one for one in compare(books, stock)}
            mended = [Mended(one) for key, one in wanted.items() if key not in seen]
            mended += [Mended(one, seen[key].fix) for key, one in wanted.items() if _is_in_doubt(seen.get(key))]
            due = [one for key, one in wanted.items() if key in seen and seen[key].is_fixable]
            mended += [self._mend(one, is_alone) for one in due if one.remedy is Remedy.REMOVE]
            differing = [one for one in due if one.remedy is Remedy.CONVERGE]
            return mended + (self._converge(differing, books, stock.observed) if differing else [])

    # ---- looking -----------------------------------------------------------------------------------------

    def _look(self) -> tuple[tuple[Finding, ...], Mapping[str, str], bool]:
        stock, books = self._count()
        silent = {name: seen.reason for name, seen in stock.observed.hosts.items() if name not in stock.hosts}
        return compare(books, stock), silent, stock.is_worked_on

    def _count(self) -> tuple[Stock, Books]:
        """The world before the records: what was made meanwhile is then recorded already."""
        parts = self._parts
        worked = parts.lease.find_other_holder() is not None
        seen = dict(parts.look())
        counted: dict[str, HostStock] = {}
        for name, sighting in seen.items():
            if sighting.answers:
                self._count_host(name, seen, counted)
        strays = parts.processes.find_strays()
        balancer = parts.balancer.observe()
        with parts.rooms.held():
            state = parts.rooms.take_stock()
            images, snapshot = tuple(parts.store.list_images()), parts.store.snapshot()
            departed = parts.store.list_departed()
        desired = Desired(
            snapshot.sets,
            snapshot.members,
            parts.prefix,
            parts.limits,
            drives=snapshot.drives,
            departed=departed,
            hold=why_store_is_held(parts.store, parts.ledger, snapshot),
        )
        books = Books(desired, images, parts.store.installation())
        worked = worked or parts.lease.find_other_holder() is not None
        return Stock(counted, Observed(seen, balancer), state, strays, worked), books

    def _count_host(self, name: str, seen: dict[str, HostSighting], counted: dict[str, HostStock]) -> None:
        """One that cannot be counted is as good as silent."""
        try:
            counted[name] = self._parts.stockrooms[name].take_stock()
        except UnderstudyError as error:
            seen[name] = HostSighting(name, seen[name].zone, answers=False, reason=error.message)

    # ---- putting right -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """With the lease, where it is free: no controller begins meanwhile. False: one is at work, and goes on."""
        lease = self._parts.lease
        if not lease.take():
            yield False
            return
        over = threading.Event()

        def keep() -> None:
            while not over.wait(LEASE_TTL / 3):
                with contextlib.suppress(UnderstudyError):
                    lease.renew()

        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        try:
            yield True
        finally:
            over.set()
            keeper.join()
            lease.release()

    def _mend(self, finding: Finding, is_alone: bool) -> Mended:
        self._tell(f"removing {finding.kind} {finding.name}{f' on {finding.host}' if finding.host else ''}")
        try:
            if is_alone:
                Fence(self._parts.lease).check()  # held up, it may have lost it to somebody who began
            self._remove(finding)
        except UnderstudyError as error:
            return Mended(finding, error.message)
        return Mended(finding)

    def _remove(self, finding: Finding) -> None:
        parts, name = self._parts, finding.name
        here: dict[Kind, Callable[[], None]] = {
            Kind.PROCESS: lambda: parts.processes.end_stray(int(name)),
            Kind.IMAGE: lambda: self._remove_kept(finding),
            Kind.SCRATCH: lambda: parts.rooms.remove_scratch(name),
            Kind.UPLOAD: lambda: self._remove_kept(finding),
            Kind.SECRET: lambda: self._remove_kept(finding),
            Kind.COPY: lambda: parts.rooms.remove_copy(name),
            Kind.MACHINE: lambda: self._remove_machine(finding),
            Kind.SEED: lambda: self._remove_seed(finding),
            Kind.VOLUME: lambda: parts.stockrooms[finding.host].remove_volume(name),
            Kind.LOG: lambda: parts.stockrooms[finding.host].remove_log(name),
            Kind.PROBE: lambda: parts.stockrooms[finding.host].remove_probe(),
            Kind.RESERVATION: lambda: self._remove_reservation(finding),
            Kind.REMNANT: lambda: self._remove_remnant(finding),
        }
        here[finding.kind]()

    def _remove_kept(self, finding: Finding) -> None:
        """Unless a command has just recorded what needs it, for which no lease is taken."""
        rooms, store = self._parts.rooms, self._parts.store
        remove = {
            Kind.IMAGE: rooms.remove_image,
            Kind.UPLOAD: rooms.remove_upload,
            Kind.SECRET: rooms.remove_secret,
        }
        with rooms.held():
            if finding.name not in needed_files(finding.kind, store.list_images(), store.snapshot().sets):
                remove[finding.kind](finding.name)

    def _remove_machine(self, finding: Finding) -> None:
        """The driver checks its owner tag once more."""
        host = self._parts.hosts[finding.host]
        host.destroy_machine(finding.name)
        host.disks.remove_local_storage(finding.target)

    def _remove_seed(self, finding: Finding) -> None:
        """Out of the machine first, as after its setup."""
        body = parse_volume(self._parts.prefix, finding.name)
        if isinstance(body, BodyVolume):
            domain = domain_name(self._parts.prefix, body.member)
            self._parts.hosts[finding.host].remove_seed(domain, body.incarnation)

    def _remove_reservation(self, finding: Finding) -> None:
        room = self._parts.stockrooms[finding.host]
        for one in room.take_stock().reservations:
            if (one.member, one.network) == (finding.name, finding.target):
                room.remove_reservation(one)

    def _remove_remnant(self, finding: Finding) -> None:
        room = self._parts.stockrooms[finding.host]
        for one in room.take_stock().remnants:
            if one.path == finding.name:
                room.remove_remnant(one)

    def _converge(self, findings: list[Finding], books: Books, observed: Observed) -> list[Mended]:
        self._tell("bringing the load balancer to what it should be")
        try:
            Fence(self._parts.lease).check()
            self._parts.balancer.converge(desired_balancer(books.desired, observed))
        except UnderstudyError as error:
            return [Mended(one, error.message) for one in findings]
        return [Mended(one) for one in findings]


def _is_in_doubt(finding: Finding | None) -> bool:
    """It is still there, and is left alone after all."""
    return finding is not None and not finding.is_fixable


def _identity(finding: Finding) -> Identity:
    """By which a finding is known again; its words may differ."""
    return (finding.kind.value, finding.fault.value, finding.host, finding.name, finding.target)
