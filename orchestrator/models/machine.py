"""One machine, described completely before anything is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.models.members import Image, Role
from orchestrator.models.ownership import OwnerTag, TagState
from orchestrator.models.spec import DiskBus, Firmware, NicModel
from orchestrator.models.storage import ExtraDisk


@dataclass(frozen=True)
class Nic:
    """How a machine reaches the world.

    User mode: `network` is empty and `forwards` maps (host address, host port) to guest ports.
    Network mode: `network` names the libvirt network, `address` is reserved on it, and `filter` names libvirt's
    filter that lets this card use no other address than its own (empty: it may).
    """

    mac: str
    address: str
    network: str = ""
    forwards: tuple[tuple[int, int], ...] = ()  # (host port on `address`, guest port)
    outbound: bool = False
    filter: str = ""


@dataclass(frozen=True)
class Hardware:
    """What a guest must have drivers for. `is_windows`: with what Windows asks of its machine, and its answer file
    on a CD-ROM."""

    firmware: Firmware = "bios"
    disk_bus: DiskBus = "virtio"
    nic: NicModel = "virtio"
    is_windows: bool = False


@dataclass(frozen=True)
class Blueprint:
    """Everything that makes one machine. Sizes are bytes; `disk` None keeps the image's virtual size. `role` and
    `created_at` are its member's. `forked`: it goes on from the golden image of its model."""

    domain: str
    uuid: str
    member: str
    set_name: str
    installation: str
    incarnation: int
    model: str
    vcpus: int
    memory: int
    disk: int | None
    image: Image
    nic: Nic
    hardware: Hardware = field(default_factory=Hardware)
    disks: tuple[ExtraDisk, ...] = ()
    role: Role = Role.INSTANCE
    created_at: float = 0.0
    forked: bool = False

    def tag(self) -> OwnerTag:
        return OwnerTag(
            installation=self.installation,
            set_name=self.set_name,
            member=self.member,
            incarnation=self.incarnation,
            model=self.model,
            image=self.image.ref,
            digest=self.image.digest,
            role=self.role,
            state=TagState.NEW,
            address=self.nic.address,
            created_at=self.created_at,
            forked=self.forked,
        )


@dataclass(frozen=True)
class Subnet:
    """An IPv4 network guests sit on: `cidr` such as 192.168.122.0/24.

    `reserved` addresses are taken; those between the ends of `dynamic` are leased by DHCP to anybody, so they
    are allotted only when no other is left.
    """

    cidr: str
    gateway: str
    nameservers: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    dynamic: tuple[tuple[str, str], ...] = ()
