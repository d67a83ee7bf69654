"""Which accelerator runs guests on a host: found out by booting one, with a deadline.

`/dev/kvm` that opens proves nothing: where KVM is itself emulated, guests hang in it for ever. The probe guest
is `accelerator_probe.S`, 512 bytes; a test assembles it and compares.
"""

from __future__ import annotations

import base64
import contextlib
import time
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.errors import translated
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import HostError

DEADLINE = 5.0  # seconds; hardware KVM needs well under one
_LOOK = 0.02
_SHUT_DOWN_BY_GUEST = [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN]

PROBE_GUEST = base64.b64decode(
    "+jHAjtiOwI7QvAB8vwAQZjHAuQAM/Gbzq8cGABADIMcGACADMMcGADCDAA8g4AwgDyLgZrgAEAAADyLYZrmAAADA"
    "DzINAAEPMA8BFiB9DyDAZg0BAACADyLA6l98CABmuBAAjtiOwI7QvAB8AAC/AEAAADHAuQAEAADzq78AQgAAuP98"
    "AABmiQfHRwIIAACOwegQZolHBg8BHCUmfQAAsBHmILAg5iGwBOYhsAHmIbD+5iG5AAAAEAHLwcMD/8l197kgTgAA"
    "DyDYDyLYiQwlAFAAAP/Jde8x2/v0g/sDcvr6vjB9AABmuvgDrITAdAPu6/hmugQGZrgAIGbv9Ov9/8OwIOYgSM+Q"
    "AAAAAAAAAAAAAAAAAJogAAAAAAAAkgAAFwAIfQAA/w8AQAAAAAAAAGxvbmcgbW9kZSwgcGFnaW5nIGFuZCB0aW1l"
    "ciB3b3JrDQoAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAVao="
)


@dataclass(frozen=True)
class Accelerator:
    """`kind` is kvm or tcg; `why` is one sentence for the operator; `seconds` the probe guest took under kvm."""

    kind: str
    why: str
    seconds: float | None = None


def find_accelerator(connection: LibvirtConnection, volumes: Volumes, prefix: str) -> Accelerator:
    """Boot the probe guest under KVM. Raises HostError only if not even plain emulation is offered."""
    if not _offers(connection, "kvm"):
        if not _offers(connection, "qemu"):
            raise HostError(
                f"{connection.uri} offers no x86_64 QEMU", "install qemu-system-x86, then restart libvirtd"
            )
        return Accelerator("tcg", "libvirt offers no KVM here (no /dev/kvm, or QEMU may not open it)")
    try:
        seconds = _boot(connection, volumes, f"{prefix}-probe")
    except HostError as error:
        return Accelerator("tcg", f"a guest does not start under KVM: {error.message.partition(chr(10))[0]}")
    if seconds is None:
        return Accelerator("tcg", f"a tiny guest did not run to its end under KVM within {DEADLINE:.0f} s")
    return Accelerator("kvm", f"a tiny guest ran under KVM in {seconds:.1f} s", seconds)


def _offers(connection: LibvirtConnection, kind: str) -> bool:
    try:
        connection.get().getDomainCapabilities(None, "x86_64", "pc", kind)
    except libvirt.libvirtError:
        return False
    return True


def _boot(connection: LibvirtConnection, volumes: Volumes, name: str) -> float | None:
    """Seconds until the guest powered itself off; None if it had to be stopped."""
    with translated("cannot try KVM"):
        _remove(connection.get(), name)
        path = volumes.make_filled(f"{name}.img", PROBE_GUEST.ljust(4096, b"\0"))
        try:
            domain = connection.get().defineXML(_domain(name, path))
            began = time.monotonic()
            domain.create()
            while time.monotonic() < began + DEADLINE:
                if domain.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF:
                    break
                time.sleep(_LOOK)
            ended = list(domain.state()) == _SHUT_DOWN_BY_GUEST
            return time.monotonic() - began if ended else None
        finally:
            _remove(connection.get(), name)
            volumes.remove(f"{name}.img")


def remove_probe(connection: LibvirtConnection, volumes: Volumes, prefix: str) -> None:
    """What a process that died in `find_accelerator` left. Absent is success."""
    _remove(connection.get(), f"{prefix}-probe")
    volumes.remove(f"{prefix}-probe.img")


def _remove(connection: Any, name: str) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        domain = connection.lookupByName(name)
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
        domain.undefine()


def _domain(name: str, path: str) -> str:
    root = Element("domain", type="kvm")
    SubElement(root, "name").text = name
    SubElement(root, "memory", unit="MiB").text = "32"
    SubElement(root, "vcpu").text = "1"
    SubElement(SubElement(root, "os"), "type", arch="x86_64", machine="pc").text = "hvm"
    SubElement(SubElement(root, "features"), "acpi")
    devices = SubElement(root, "devices")
    disk = SubElement(devices, "disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type="raw")
    SubElement(disk, "source", file=path)
    # IDE: the oldest firmware boots from it, and no driver is needed.
    SubElement(disk, "target", dev="hda", bus="ide")
    return tostring(root, encoding="unicode")
