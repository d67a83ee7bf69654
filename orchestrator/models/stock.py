"""What there is, as an audit counts it: on hosts that answer, in the load balancer, in the state directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.models.sightings import Observed


class RemnantKind(StrEnum):
    """Files that libvirt keeps of a domain beside its disks."""

    MEMORY = "memory image"
    VARIABLES = "UEFI variables"
    TPM = "TPM state"


@dataclass(frozen=True)
class Remnant:
    """`subject` is the domain's name, of a TPM's state its UUID."""

    kind: RemnantKind
    subject: str
    path: str


@dataclass(frozen=True)
class DomainStock:
    """A domain whose name begins with our prefix. `installation` is empty where it carries no owner tag; `files`
    are those of its disks and what they are written over, now and from its next start on."""

    name: str
    uuid: str
    installation: str = ""
    member: str = ""
    incarnation: int = 0
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reservation:
    """A DHCP host entry of a libvirt network."""

    network: str
    member: str
    mac: str
    address: str


@dataclass(frozen=True)
class HostStock:
    """One host. `volumes`: name -> path, of our storage pool in directory `pool`. `in_use`: files of all domains,
    whatever they are called. `seeds`: volumes of seeds that can be read still; one that a guest did not let go
    of is empty. `reserves`: its guests' network has DHCP entries at all. `logs`: what consoles have shown, name ->
    path."""

    name: str
    domains: Mapping[str, DomainStock]
    volumes: Mapping[str, str]
    pool: str
    reservations: tuple[Reservation, ...] = ()
    remnants: tuple[Remnant, ...] = ()
    reserves: bool = False
    in_use: frozenset[str] = frozenset()
    seeds: frozenset[str] = frozenset()
    logs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StateStock:
    """The state directory: digests of the images kept, names of scratch directories that nobody works in any more,
    names of upload archives and of passwords. `copies`: descriptions of images (`image-records/NAME@VERSION.json`)
    and whatever copy was never finished. Declarations are not counted: what they lack or have is the store's."""

    images: frozenset[str] = frozenset()
    scratch: frozenset[str] = frozenset()
    uploads: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    copies: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stock:
    """Everything at one moment. `hosts` are those that could be counted; `strays` processes of our HAProxy that
    listen beside the one in force; `is_worked_on`: a controller was at work."""

    hosts: Mapping[str, HostStock]
    observed: Observed
    state: StateStock
    strays: tuple[int, ...] = ()
    is_worked_on: bool = False
