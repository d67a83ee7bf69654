"""A store on real SQLite, and its clock, for tests of what is written there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.models.members import Image, Member, Phase, Role
from orchestrator.models.spec import ScaleSetSpec, model_digest
from orchestrator.models.steps import Admit, Advance
from orchestrator.store import Store, open_store
from orchestrator.store.records import Recorder
from tests.builders import make_image, make_spec
from tests.fakes import FakeClock, FakeIdentities


def some_addresses(count: int = 200) -> Iterable[str]:
    return [f"127.77.0.{number}" for number in range(2, 2 + count)]


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/store.sqlite"


@dataclass
class Storage:
    """A store with one image in it and short ways to fill it."""

    store: Store
    clock: FakeClock
    image: Image
    recorder: Recorder

    def declare(self, spec: ScaleSetSpec | None = None, **fields: Any) -> bool:
        wanted = spec or make_spec(**fields)
        return self.store.declare_set(wanted, self.image, model_digest(wanted, self.image.digest))

    def admit(self, role: Role = Role.INSTANCE, set_name: str = "web", event: str = "") -> Member:
        before = {member.name for member in self.members()}
        assert self.perform_admission(role, set_name, event)
        (new,) = (member for member in self.members() if member.name not in before)
        return new

    def perform_admission(
        self, role: Role = Role.INSTANCE, set_name: str = "web", event: str = "admitted"
    ) -> bool:
        return self.recorder.perform(Admit(set_name, role, "local", "a", "because it is wanted", event))

    def put(self, member: Member, *phases: Phase) -> Member:
        """Advance through phases to the last."""
        for phase in phases:
            assert self.recorder.perform(Advance(member, phase, f"{member.name} is {phase.value}"))
            member = self.member(member.name)
        return member

    def member(self, name: str) -> Member:
        (found,) = (member for member in self.members() if member.name == name)
        return found

    def members(self) -> list[Member]:
        return list(self.store.snapshot().members)

    def kinds(self) -> list[str]:
        """Kinds of all events, oldest first."""
        return [event.kind for event in self.store.list_events(None)]


def open_storage(folder: Path, identities: FakeIdentities | None = None, addresses: int = 200) -> Storage:
    clock = FakeClock()
    store = open_store(url_of(folder), clock.now)
    suffix = (identities or FakeIdentities()).member_suffix
    recorder = Recorder(store, suffix, lambda: some_addresses(addresses))
    image = store.add_image("micro", lambda version: replace(make_image(), version=version))
    return Storage(store, clock, image, recorder)
