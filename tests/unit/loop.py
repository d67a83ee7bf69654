"""The loop with stateful fakes and a real store, turn by turn."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.apply.addressing import user_addressing
from orchestrator.apply.executor import Executor
from orchestrator.apply.fenced import FencedHosts
from orchestrator.apply.world import Installation
from orchestrator.apply.world import World as Ports
from orchestrator.config.ledger import Ledger
from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Power, Rotation
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.planner import Limits
from orchestrator.reconcile.controller import Controller
from orchestrator.reconcile.lookout import LOOK_DEADLINE, Lookout
from orchestrator.reconcile.parts import ControllerParts
from orchestrator.service import declare
from orchestrator.service.declare import Surroundings
from orchestrator.store import Fence, Lease, Store, open_store
from orchestrator.store.departed import remember_departed
from orchestrator.store.records import Recorder
from tests.builders import PREFIX, make_image, make_spec
from tests.fakes import (
    FakeBalancer,
    FakeClock,
    FakeGuest,
    FakeHypervisor,
    FakeIdentities,
    FakeSeedWriter,
    Journal,
    image_file,
)

PATIENCE = 15.0  # real seconds until a test that waits for a state gives up
OPERATOR_KEY = "ssh-ed25519 AAAAOperator understudy"

MakeHost = Callable[..., FakeHypervisor]
MakeGuest = Callable[..., FakeGuest]


@dataclass
class Site:
    """One installation: what outlives its controllers, and the controller that works now."""

    store: Store
    clock: FakeClock
    journal: Journal
    hosts: dict[str, FakeHypervisor]
    balancer: FakeBalancer
    guest: FakeGuest
    folder: Path
    limits: Limits
    parallel: int
    addresses: str
    identities: FakeIdentities
    look_deadline: float = LOOK_DEADLINE
    ledger: Ledger | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    lease: Lease = field(init=False)  # of the controller made last
    _controller: Controller | None = None

    # ---- the controller ----------------------------------------------------------------------------------

    @property
    def controller(self) -> Controller:
        if self._controller is None:
            self._controller = self.make_controller()
            assert self.lease.take()
        return self._controller

    def make_controller(self, holder: str | None = None) -> Controller:
        addressing = user_addressing(self.addresses, outbound=False)
        installation = Installation(
            name=self.store.installation(),
            prefix=PREFIX,
            operator_key=OPERATOR_KEY,
            images=self.folder,
            uploads=self.folder,
            secrets=self.folder / "secrets",
            addressing=addressing,
            agent_grace=0.0,
        )
        lease = self.lease = Lease(self.store, holder=holder, monotonic=self.clock.monotonic)
        fence = Fence(lease)
        hosts = FencedHosts(self.hosts, fence.check)
        ports = Ports(hosts, self.guest, FakeSeedWriter(), self.identities, self.clock)
        parts = ControllerParts(
            store=self.store,
            recorder=Recorder(self.store, self.identities.member_suffix, addressing.candidates, fence),
            executor=Executor(installation, ports),
            hosts=self.hosts,
            balancer=self.balancer,
            lease=lease,
            fence=fence,
            clock=self.clock,
            look_deadline=self.look_deadline,
            ledger=self.ledger,
        )
        return Controller(parts, self.limits, PREFIX, self.parallel, addressing.capacity())

    def crash(self) -> None:
        """The controller's process ends; the next turn is another one's, which remembers nothing."""
        if self._controller is not None:
            close(self._controller)
            self._controller = None

    def turn_until(self, reached: Callable[[], bool], what: str = "") -> None:
        """Turn after turn until that is so."""
        self.stand_by_until(reached, what, lambda: self.controller.turn())

    def stand_by_until(
        self, reached: Callable[[], bool], what: str = "", meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """Without a turn: only what is under way goes on."""
        give_up = time.monotonic() + PATIENCE
        while not reached():
            meanwhile()
            if time.monotonic() >= give_up:
                raise AssertionError(f"not reached: {what}\n{self.picture()}")
            # Effects end in their own threads: let them.
            self.reached.wait(0.002)
            self.reached.clear()

    def settle(self, name: str = "web") -> None:
        """Until the set is as declared, and recorded as such."""
        self.turn_until(lambda: self.is_settled(name) and not self.wanted(name).stuck, f"{name} is settled")

    def settle_again(self, name: str = "web") -> None:
        """Until it is seen that something happened to the set, and it is as declared after all."""
        self.controller.turn()
        self.store.touch_set(name)
        self.settle(name)

    def settle_stuck(self, name: str = "web") -> str:
        """Until only waiting could help; why."""
        self.turn_until(lambda: self.is_settled(name) and bool(self.wanted(name).stuck), f"{name} is stuck")
        return self.wanted(name).stuck

    def is_settled(self, name: str) -> bool:
        found = self.store.find_set(name)
        return found is not None and found.settled_generation == found.generation

    def let_go(self, member: str) -> None:
        """The store remembers that it let a member of that name go."""
        with self.store.database.write() as connection:
            remember_departed(connection, [member], self.clock.now())

    # ---- wishes ------------------------------------------------------------------------------------------

    def apply(self, spec: ScaleSetSpec | None = None, **fields: Any) -> None:
        declare.apply(self.store, spec or make_spec(**fields), self.surroundings())

    def scale(self, instances: int, name: str = "web") -> None:
        declare.scale(self.store, name, instances, self.surroundings())

    def surroundings(self) -> Surroundings:
        seen = tuple(Lookout(self.hosts, self.look_deadline).look().values())
        return Surroundings(
            seen, self.limits.memory_ratio, self.balancer.why_not_bindable, lambda _firmware, _zones: ""
        )

    # ---- looking -----------------------------------------------------------------------------------------

    @property
    def host(self) -> FakeHypervisor:
        return next(iter(self.hosts.values()))

    def wanted(self, name: str = "web") -> ScaleSet:
        return declare.get_set(self.store, name)

    def members(self, role: Role | None = None, name: str = "web") -> list[Member]:
        found = self.store.snapshot().members
        return [one for one in found if one.set_name == name and role in (None, one.role)]

    def instances(self) -> list[Member]:
        return self.members(Role.INSTANCE)

    def pool(self) -> list[Member]:
        return self.members(Role.STANDBY)

    def names(self, role: Role | None = None) -> set[str]:
        return {one.name for one in self.members(role)}

    def member(self, name: str) -> Member:
        (found,) = (one for one in self.members() if one.name == name)
        return found

    def only(self) -> Member:
        (found,) = self.members()
        return found

    def phase(self, name: str) -> Phase:
        return self.member(name).phase

    def power(self, member: Member) -> Power:
        return self.hosts[member.host].power(domain_name(PREFIX, member.name))

    def rotation(self) -> set[str]:
        return self.balancer.rotation(Rotation.READY)

    def events(self, *kinds: str) -> list[str]:
        """Reasons of the events of these kinds, oldest first."""
        return [event.reason for event in self.store.list_events(None) if event.kind in kinds]

    def picture(self) -> str:
        """Everything a failing test needs to be understood."""
        lines = [
            f"{one.name} {one.role} {one.phase} {one.request} {self.power(one)}: {one.reason}"
            for one in self.store.snapshot().members
        ]
        lines += [f"{event.kind} {event.member}: {event.reason}" for event in self.store.list_events(None)[-15:]]
        return "\n".join(lines)


@contextlib.contextmanager
def running(controller: Controller) -> Iterator[threading.Event]:
    """The controller turns by itself; the event says that it has looked. Stopped at the end, whatever happens."""
    looked = threading.Event()
    thread = threading.Thread(target=controller.run, args=(looked.set,))
    thread.start()
    try:
        yield looked
    finally:
        controller.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def close(controller: Controller) -> None:
    """As a signal would: work is cancelled and waited for, the lease given back."""
    controller.stop()
    controller.run()


@contextlib.contextmanager
def open_site(
    folder: Path,
    make_host: MakeHost = FakeHypervisor,
    make_guest: MakeGuest = FakeGuest,
    hosts: tuple[str, ...] = ("local",),
    addresses: str = "127.77.0.0/16",
    parallel: int = 4,
    memory: int = 2**36,
) -> Iterator[Site]:
    """A site with the image micro:1; closed at the end, its controller too."""
    clock, journal = FakeClock(), Journal()
    store = open_store(f"sqlite:///{folder}/store.sqlite", clock.now)
    name = store.installation()
    made = {
        host: make_host(host, zone, installation=name, journal=journal, memory=memory)
        for host, zone in zip(hosts, "abc", strict=False)
    }
    _, digest = image_file(folder)
    store.add_image("micro", lambda version: make_image(digest=digest, version=version))
    site = Site(
        store=store,
        clock=clock,
        journal=journal,
        hosts=made,
        balancer=FakeBalancer(journal),
        guest=make_guest(clock, *made.values()),
        folder=folder,
        limits=Limits(),
        parallel=parallel,
        addresses=addresses,
        identities=FakeIdentities(),
    )
    for host in made.values():
        host.subscribe(site.reached.set)
    try:
        yield site
    finally:
        site.crash()
        store.close()
