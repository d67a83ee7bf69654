"""Domain XML of one machine, built as a tree: no value can break out of its place."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase
from xml.etree.ElementTree import Element, SubElement, indent, register_namespace, tostring

from orchestrator.models.machine import Blueprint, Hardware
from orchestrator.models.storage import ExtraDisk
from orchestrator.render.owner import METADATA_NS, render_owner

QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
QEMU_COMMANDLINE, QEMU_CAPABILITIES = f"{{{QEMU_NS}}}commandline", f"{{{QEMU_NS}}}capabilities"

USER_NETDEV = "understudy0"
# In user mode the card is given on QEMU's command line, where libvirt does not count it: a slot of its own
# on the root bus, above all that libvirt fills from the bottom.
_USER_NIC_SLOT = "addr=0x1e"
_ROOT_BUS = {"pc": "pci.0", "q35": "pcie.0"}
_QEMU_NIC = {"virtio": "virtio-net-pci", "e1000e": "e1000e"}
_DISK_NAMES = {"virtio": "vd", "sata": "sd"}


@dataclass(frozen=True)
class MachineFiles:
    """Paths on the host of what makes up a machine. `seed` may be empty; so may `console`: then no log is kept; so
    may `agent`, the guest agent's socket: then libvirt chooses. `disks`: of the blueprint's disks, in their order.
    `golden`: of a fork, what lies between its overlay and the base."""

    base: str
    overlay: str
    seed: str
    console: str
    agent: str = ""
    disks: tuple[str, ...] = ()
    golden: str = ""


def render_domain(blueprint: Blueprint, files: MachineFiles, accelerator: str) -> str:
    """Domain XML; `accelerator` is `kvm` or `tcg`."""
    register_namespace("qemu", QEMU_NS)
    register_namespace("understudy", METADATA_NS)
    root = Element("domain", type="kvm" if accelerator == "kvm" else "qemu")
    _text(root, "name", blueprint.domain)
    _text(root, "uuid", blueprint.uuid)
    SubElement(root, "genid")
    SubElement(root, "metadata").append(render_owner(blueprint.tag()))
    _text(root, "memory", str(blueprint.memory // 1024), unit="KiB")
    _text(root, "vcpu", str(blueprint.vcpus))
    _boot(root, blueprint.hardware)
    _features(SubElement(root, "features"), blueprint.hardware, accelerator)
    SubElement(root, "cpu", mode="host-model" if accelerator == "kvm" else "maximum")
    _clock(root, blueprint.hardware, accelerator)
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, event, action)
    _devices(SubElement(root, "devices"), blueprint, files)
    if not blueprint.nic.network:
        _user_network(root, blueprint)
    if accelerator != "kvm":
        _few_questions(root)
    indent(root)
    return tostring(root, encoding="unicode")


def _chipset(hardware: Hardware) -> str:
    return "pc" if hardware.firmware == "bios" else "q35"


def _boot(root: Element, hardware: Hardware) -> None:
    os_part = SubElement(root, "os")
    _text(os_part, "type", "hvm", arch="x86_64", machine=_chipset(hardware))
    if hardware.firmware != "bios":
        # libvirt finds the firmware and its variable store that have these features.
        os_part.set("firmware", "efi")
        features = SubElement(os_part, "firmware")
        wanted = "yes" if hardware.firmware == "uefi-secure" else "no"
        for name in ("secure-boot", "enrolled-keys"):
            SubElement(features, "feature", enabled=wanted, name=name)
    SubElement(os_part, "boot", dev="hd")


def _features(features: Element, hardware: Hardware, accelerator: str) -> None:
    SubElement(features, "acpi")
    SubElement(features, "apic")
    if hardware.is_windows:
        _enlightenments(SubElement(features, "hyperv"), accelerator)
    if hardware.firmware == "uefi-secure":
        SubElement(features, "smm", state="on")
    if accelerator != "kvm":
        # QEMU's own default lets the translation cache of every small guest grow to 1 GiB of host memory.
        _text(SubElement(features, "tcg"), "tb-cache", "128", unit="MiB")


def _enlightenments(hyperv: Element, accelerator: str) -> None:
    SubElement(hyperv, "relaxed", state="on")
    SubElement(hyperv, "vapic", state="on")
    SubElement(hyperv, "spinlocks", state="on", retries="8191")
    if accelerator == "kvm":
        # Without KVM libvirt refuses to start a machine that has these.
        for name in ("vpindex", "synic", "stimer"):
            SubElement(hyperv, name, state="on")


def _clock(root: Element, hardware: Hardware, accelerator: str) -> None:
    clock = SubElement(root, "clock", offset="localtime" if hardware.is_windows else "utc")
    if hardware.is_windows:
        SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
        SubElement(clock, "timer", name="pit", tickpolicy="delay")
        SubElement(clock, "timer", name="hpet", present="no")
        if accelerator == "kvm":
            SubElement(clock, "timer", name="hypervclock", present="yes")


def _devices(devices: Element, blueprint: Blueprint, files: MachineFiles) -> None:
    hardware = blueprint.hardware
    _overlay_disk(devices, files, hardware.disk_bus)
    if files.seed and hardware.is_windows:
        _seed_cdrom(devices, files.seed)
    elif files.seed:
        _seed_disk(devices, files.seed)
    for disk, path in zip(blueprint.disks, files.disks, strict=True):
        devices.append(_extra_disk(disk, path, hardware.disk_bus))
    _serial(devices, files.console)
    agent = SubElement(devices, "channel", type="unix")
    if files.agent:
        SubElement(agent, "source", mode="bind", path=files.agent)
    SubElement(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
    rng = SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    SubElement(devices, "panic", model="isa")
    SubElement(devices, "memballoon", model="virtio")
    if hardware.is_windows:
        # Its loader and its setup draw on a screen, whether anybody looks or not.
        SubElement(SubElement(devices, "video"), "model", type="vga")
    if hardware.firmware == "uefi-secure":
        SubElement(SubElement(devices, "tpm", model="tpm-crb"), "backend", type="emulator", version="2.0")
    if blueprint.nic.network:
        nic = SubElement(devices, "interface", type="network")
        SubElement(nic, "mac", address=blueprint.nic.mac)
        SubElement(nic, "source", network=blueprint.nic.network)
        SubElement(nic, "model", type=hardware.nic)
        _filter(nic, blueprint)


def _filter(nic: Element, blueprint: Blueprint) -> None:
    if blueprint.nic.filter:
        filterref = SubElement(nic, "filterref", filter=blueprint.nic.filter)
        # Given, and not learned from what the guest sends first. The MAC address libvirt knows.
        SubElement(filterref, "parameter", name="IP", value=blueprint.nic.address)


def _overlay_disk(devices: Element, files: MachineFiles, bus: str) -> None:
    disk = SubElement(devices, "disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    SubElement(disk, "source", file=files.overlay)
    beneath = disk
    for path in (files.golden, files.base) if files.golden else (files.base,):
        beneath = SubElement(beneath, "backingStore", type="file")
        SubElement(beneath, "format", type="qcow2")
        # Never relabelled: it keeps its owner, so that no QEMU process could make it writable.
        SubElement(SubElement(beneath, "source", file=path), "seclabel", model="dac", relabel="no")
    SubElement(beneath, "backingStore")
    _target(devices, disk, bus)


def _seed_disk(devices: Element, path: str) -> None:
    # A virtio disk rather than a CD-ROM: Debian's cloud kernel has no AHCI driver.
    disk = SubElement(devices, "disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type="raw")
    SubElement(disk, "source", file=path)
    _target(devices, disk, "virtio")
    SubElement(disk, "readonly")


def _seed_cdrom(devices: Element, path: str) -> None:
    # Windows looks for answer files on removable media, and needs no driver for this one.
    disk = SubElement(devices, "disk", type="file", device="cdrom")
    SubElement(disk, "driver", name="qemu", type="raw")
    SubElement(disk, "source", file=path)
    _target(devices, disk, "sata")
    SubElement(disk, "readonly")


# Overlay and seed have the first two names of a bus at most.
_FIRST_EXTRA = 2


def render_disk(disk: ExtraDisk, path: str, hardware: Hardware) -> str:
    """XML of one further disk, to be attached to a machine that is there already."""
    root = _extra_disk(disk, path, hardware.disk_bus)
    indent(root)
    return tostring(root, encoding="unicode")


def _extra_disk(disk: ExtraDisk, path: str, bus: str) -> Element:
    element = Element("disk", type="file", device="disk")
    SubElement(element, "driver", name="qemu", type="qcow2", discard="unmap")
    SubElement(element, "source", file=path)
    # It stands alone. Said, so that nothing is looked for in it.
    SubElement(element, "backingStore")
    SubElement(element, "target", dev=_DISK_NAMES[bus] + ascii_lowercase[_FIRST_EXTRA + disk.position], bus=bus)
    _text(element, "serial", disk.serial)
    return element


def _target(devices: Element, disk: Element, bus: str) -> None:
    """The next free name on that bus: vda, vdb, ... or sda, sdb, ..."""
    taken = len(devices.findall(f"disk/target[@bus='{bus}']"))
    SubElement(disk, "target", dev=_DISK_NAMES[bus] + ascii_lowercase[taken], bus=bus)


def _serial(devices: Element, log: str) -> None:
    serial = SubElement(devices, "serial", type="pty")
    console = SubElement(devices, "console", type="pty")
    if log:
        for device in (serial, console):
            SubElement(device, "log", file=log, append="off")
    SubElement(serial, "target", port="0")
    SubElement(console, "target", type="serial", port="0")


def _user_network(root: Element, blueprint: Blueprint) -> None:
    nic = blueprint.nic
    netdev = ["user", f"id={USER_NETDEV}", f"restrict={'off' if nic.outbound else 'on'}", "ipv6=off"]
    netdev += [f"hostfwd=tcp:{nic.address}:{outer}-:{inner}" for outer, inner in nic.forwards]
    bus = _ROOT_BUS[_chipset(blueprint.hardware)]
    model = _QEMU_NIC[blueprint.hardware.nic]
    device = f"{model},netdev={USER_NETDEV},mac={nic.mac},bus={bus},{_USER_NIC_SLOT}"
    commandline = SubElement(root, QEMU_COMMANDLINE)
    for argument in ("-netdev", ",".join(netdev), "-device", device):
        SubElement(commandline, f"{{{QEMU_NS}}}arg", value=argument)


def _few_questions(root: Element) -> None:
    """At each start libvirt asks QEMU for every feature of the CPU, one by one: 400 questions, more than half of
    the time that a start takes. Where QEMU is said not to name what it lacks, libvirt reads all of them as words,
    with two. For emulated guests only: features in MSRs are no words, and would not be seen of a KVM guest; a
    CPU that is `maximum` requires none.

    Source: https://libvirt.org/drvqemu.html; numbers: docs/accelerator.md.
    """
    capabilities = SubElement(root, QEMU_CAPABILITIES)
    SubElement(capabilities, f"{{{QEMU_NS}}}del", capability="cpu-unavailable-features")


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text
