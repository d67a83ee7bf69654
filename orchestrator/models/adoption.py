"""What a lost store is rebuilt from, and what it is rebuilt to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.models.members import Image, Member, ScaleSet
from orchestrator.models.ownership import OwnerTag
from orchestrator.models.sightings import Power
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive


@dataclass(frozen=True)
class FoundMachine:
    """A domain of this installation. `disks`: the volumes of our pool that it has, now or from its next start on;
    `memory`: bytes.

    `tag` None: an older version made it, and its tag does not say enough.
    """

    domain: str
    member: str
    host: str
    zone: str
    power: Power
    tag: OwnerTag | None
    disks: frozenset[str] = frozenset()
    memory: int = 0


@dataclass(frozen=True)
class HostSurvey:
    """One host: our machines, our pool's volumes with their capacity in bytes, and domains that bear our prefix
    but are not ours. `disks_of_others`: volumes of our pool that domains of others have. `logs`: names of what
    consoles have shown."""

    host: str
    machines: tuple[FoundMachine, ...] = ()
    volumes: Mapping[str, int] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    disks_of_others: frozenset[str] = frozenset()
    logs: frozenset[str] = frozenset()


class Source(StrEnum):
    """Where a set's declaration comes from."""

    STORE = "store"
    COPY = "copy"  # beside the store, and newer than it
    FILE = "file"  # given by the operator


@dataclass(frozen=True)
class Declaration:
    """A scale set as it was declared. `generation`: of the store when this was written; `file`: by which."""

    spec: ScaleSetSpec
    model: str
    image: Image
    generation: int
    deleting: bool = False
    file: str = ""

    @classmethod
    def of(cls, wanted: ScaleSet) -> Declaration:
        return cls(wanted.spec, wanted.model, wanted.image, wanted.generation, wanted.deleting, wanted.file)

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class AdoptedSet:
    """`found`: machines of it that were found. `declared`: as it is to be recorded."""

    declared: Declaration
    source: Source
    found: int


@dataclass(frozen=True)
class Adoption:
    """What is to be written: sets whole, `members` new or changed, `dropped` without a trace on any host.

    `left` are to be remembered as let go; `notes` say in English what the operator should know besides.
    """

    sets: tuple[AdoptedSet, ...] = ()
    images: tuple[Image, ...] = ()
    members: tuple[Member, ...] = ()
    dropped: tuple[Member, ...] = ()
    drives: tuple[Drive, ...] = ()
    dropped_drives: tuple[Drive, ...] = ()
    left: tuple[str, ...] = ()  # members of which only disks are left
    foreign: tuple[tuple[str, str], ...] = ()  # (host, domain)
    notes: tuple[str, ...] = ()
