"""Names derived from names: whatever a crash leaves behind is found again by them."""

from __future__ import annotations

import hashlib
import uuid

OWN_FILTER = "understudy-clean"
"""libvirt's network filter that the product brings. What it lets through never changes under this name: all
installations on a host share it."""


def domain_name(prefix: str, member: str) -> str:
    """libvirt domain of a member; the same for every incarnation."""
    return f"{prefix}-{member}"


def overlay_volume(domain: str, incarnation: int) -> str:
    return f"{domain}.{incarnation}.qcow2"


SEED_ENDING = ".seed.iso"


def seed_volume(domain: str, incarnation: int) -> str:
    return f"{domain}.{incarnation}{SEED_ENDING}"


def grown_volume(domain: str, incarnation: int) -> str:
    """What a machine writes since its overlay was frozen for a golden image."""
    return f"{domain}.{incarnation}.top.qcow2"


def fork_memory(domain: str, incarnation: int) -> str:
    """The memory image from which a fork goes on; there is none once it does."""
    return f"{domain}.{incarnation}.mem"


def console_log(domain: str, incarnation: int) -> str:
    """What its serial console has shown: a file, and no volume. Rolled over, it is followed by `.0`, `.1`, ..."""
    return f"{domain}.{incarnation}.console.log"


def image_volume(prefix: str, digest: str) -> str:
    """Base disk of a host, named by content."""
    return f"{prefix}-image-{digest}.qcow2"


def golden_disk(prefix: str, model: str, serial: int) -> str:
    """The frozen overlay of a model's golden image; `serial` tells apart those that a host has had, from 1 on."""
    return f"{prefix}-golden-{model}.{serial}.qcow2"


def golden_memory(prefix: str, model: str, serial: int) -> str:
    """Its memory image."""
    return f"{prefix}-golden-{model}.{serial}.mem"


def golden_mark(prefix: str, model: str, serial: int) -> str:
    """What says that it is complete."""
    return f"{prefix}-golden-{model}.{serial}.json"


_EXTRA_ENDING = ".qcow2"
RAW_ENDING = ".raw"


def local_volumes(prefix: str, member: str) -> str:
    """How the names of a member's local storage begin: otherwise than those that go with each of its bodies."""
    return f"{prefix}-local.{member}."


def local_volume(prefix: str, member: str, since: int) -> str:
    """The local storage that a member has had since that incarnation."""
    return f"{local_volumes(prefix, member)}{since}{_EXTRA_ENDING}"


def drive_volume(prefix: str, set_name: str, name: str, slot: int) -> str:
    """One drive of a set. Dots separate, because no part may hold one: no two sets can mean the same volume."""
    return f"{prefix}-drive.{set_name}.{name}.{slot}{_EXTRA_ENDING}"


def raw_volume(volume: str) -> str:
    """How a volume of local storage or of a drive was called before it was qcow2."""
    return volume.removesuffix(_EXTRA_ENDING) + RAW_ENDING


LOCAL_SERIAL = "local-storage"
_SERIAL_LENGTH = 20  # what virtio can tell a guest, in bytes


def drive_serial(name: str) -> str:
    """By which a guest finds a drive; of a name that is too long, its digest."""
    serial = f"drive-{name}"
    if len(serial) <= _SERIAL_LENGTH:
        return serial
    return f"drive-{hashlib.sha256(name.encode()).hexdigest()}"[:_SERIAL_LENGTH]


def machine_uuid(installation: str, member: str, incarnation: int) -> str:
    """UUID of one incarnation: stable across retries, different for every new body."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"understudy:{installation}/{member}/{incarnation}"))


def machine_mac(installation: str, member: str) -> str:
    """A MAC address in QEMU's 52:54:00 block, derived from the member."""
    tail = hashlib.sha256(f"{installation}/{member}".encode()).digest()[:3]
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in tail)


NETBIOS_LENGTH = 15


def windows_computer_name(member: str) -> str:
    """The member's name if NetBIOS can hold it; else the beginning of its set's name and its own suffix."""
    if len(member) <= NETBIOS_LENGTH:
        return member
    set_name, _, suffix = member.rpartition("-")
    return f"{set_name[: NETBIOS_LENGTH - 1 - len(suffix)].rstrip('-')}-{suffix}"


def backend_name(set_name: str, endpoint: str) -> str:
    """HAProxy backend of an endpoint. Dots separate, because neither name may hold one."""
    return f"{set_name}.{endpoint}"


LOOPBACK_SHIFT = 20_000


def reachable_port(address: str, guest_port: int) -> int:
    """The port at which a guest's port is reached on its member's address.

    On a network that is the port itself. In user mode (a loopback address) QEMU, which has no right to
    privileged ports, forwards those below 1024 from 20000 + port.
    """
    if address.startswith("127.") and guest_port < 1024:
        return LOOPBACK_SHIFT + guest_port
    return guest_port
