"""Domain XML: as a file, and taken apart again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args
from xml.etree import ElementTree

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.machine import Blueprint, Hardware, Nic
from orchestrator.models.naming import machine_uuid
from orchestrator.models.spec import DiskBus, Firmware, NicModel
from orchestrator.models.storage import ExtraDisk
from orchestrator.render.domain import QEMU_CAPABILITIES, QEMU_NS, MachineFiles, render_disk, render_domain
from orchestrator.render.owner import METADATA_NS
from tests.builders import INSTALLATION, MIB, make_image
from tests.golden.golden import assert_golden
from tests.unit.examples import many

FILES = MachineFiles(
    base="/srv/volumes/understudy-image-d1.qcow2",
    overlay="/srv/volumes/understudy-web-4tz9k.2.qcow2",
    seed="/srv/volumes/understudy-web-4tz9k.2.seed.iso",
    console="/srv/volumes/consoles/understudy-web-4tz9k.2.console.log",
)
USER = Nic("52:54:00:aa:bb:cc", "127.77.0.2", forwards=((20022, 22), (20080, 80), (8080, 8080)))
NETWORK = Nic("52:54:00:aa:bb:cc", "192.168.122.50", network="default", filter="clean-traffic")


def blueprint(**fields: Any) -> Blueprint:
    given_: dict[str, Any] = {
        "domain": "understudy-web-4tz9k",
        "uuid": machine_uuid(INSTALLATION, "web-4tz9k", 2),
        "member": "web-4tz9k",
        "set_name": "web",
        "installation": INSTALLATION,
        "incarnation": 2,
        "model": "9f3c0d1e2a4b5c6d",
        "vcpus": 2,
        "memory": 512 * MIB,
        "disk": None,
        "image": make_image(),
        "nic": USER,
    }
    return Blueprint(**{**given_, **fields})


def parsed(
    blueprint_: Blueprint | None = None, files: MachineFiles = FILES, accelerator: str = "tcg"
) -> ElementTree.Element:
    return ElementTree.fromstring(render_domain(blueprint_ or blueprint(), files, accelerator))


def only(root: ElementTree.Element, path: str) -> ElementTree.Element:
    (found,) = root.findall(path)
    return found


@pytest.mark.parametrize(
    ("name", "nic", "files", "accelerator"),
    [
        ("domain-user-tcg.xml", USER, FILES, "tcg"),
        ("domain-network-kvm.xml", NETWORK, FILES, "kvm"),
        ("domain-no-seed-outbound.xml", replace(USER, outbound=True), replace(FILES, seed=""), "tcg"),
    ],
)
def test_a_domain_is_rendered_like_its_golden_file(
    name: str, nic: Nic, files: MachineFiles, accelerator: str
) -> None:
    assert_golden(name, render_domain(blueprint(nic=nic), files, accelerator) + "\n")


WINDOWS = {
    "bios-sata-e1000e": Hardware(disk_bus="sata", nic="e1000e", is_windows=True),
    "uefi-secure": Hardware(firmware="uefi-secure", disk_bus="sata", nic="e1000e", is_windows=True),
}


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
@pytest.mark.parametrize("name", list(WINDOWS))
def test_a_windows_domain_is_rendered_like_its_golden_file(name: str, accelerator: str) -> None:
    xml = render_domain(blueprint(hardware=WINDOWS[name]), FILES, accelerator)
    assert_golden(f"domain-windows-{name}-{accelerator}.xml", xml + "\n")


def test_a_linux_domain_with_uefi_is_rendered_like_its_golden_file() -> None:
    hardware = Hardware(firmware="uefi", disk_bus="sata")
    xml = render_domain(blueprint(hardware=hardware, nic=NETWORK), FILES, "kvm")
    assert_golden("domain-uefi-sata-kvm.xml", xml + "\n")


def test_the_owner_tag_says_whose_machine_it_is() -> None:
    owner = only(parsed(), f"./metadata/{{{METADATA_NS}}}owner")
    assert owner.attrib == {
        "installation": INSTALLATION,
        "set": "web",
        "member": "web-4tz9k",
        "incarnation": "2",
        "model": "9f3c0d1e2a4b5c6d",
        "image": "micro:1",
        "digest": make_image().digest,
        "role": "instance",
        "state": "new",
        "address": "127.77.0.2",
        "created": "0.0",
    }


def test_every_disk_is_virtio_and_only_the_overlay_can_be_written() -> None:
    disks = parsed().findall("./devices/disk")
    targets = [(only(disk, "target").get("dev"), only(disk, "target").get("bus")) for disk in disks]
    assert targets == [("vda", "virtio"), ("vdb", "virtio")]
    overlay, seed = disks
    assert only(overlay, "source").get("file") == FILES.overlay
    assert only(overlay, "driver").get("type") == "qcow2"
    assert only(overlay, "backingStore/source").get("file") == FILES.base
    assert only(overlay, "backingStore/format").get("type") == "qcow2"
    assert overlay.find("readonly") is None
    assert only(seed, "driver").get("type") == "raw"
    assert seed.find("readonly") is not None


def test_nothing_below_the_base_disk_is_probed() -> None:
    """An empty inner backingStore ends the chain: a header of the image cannot name another file."""
    inner = only(parsed(), "./devices/disk/backingStore/backingStore")
    assert (list(inner), inner.attrib) == ([], {})


def test_the_base_disk_is_never_relabelled() -> None:
    label = only(parsed(), "./devices/disk/backingStore/source/seclabel")
    assert label.attrib == {"model": "dac", "relabel": "no"}


def test_a_machine_without_answer_file_has_no_seed_disk() -> None:
    assert len(parsed(files=replace(FILES, seed="")).findall("./devices/disk")) == 1


def test_a_machine_has_a_random_source_an_agent_channel_a_panic_device_and_a_generation_id() -> None:
    root = parsed()
    rng = only(root, "./devices/rng")
    assert (rng.get("model"), only(rng, "backend").text) == ("virtio", "/dev/urandom")
    agent = only(root, "./devices/channel/target")
    assert agent.attrib == {"type": "virtio", "name": "org.qemu.guest_agent.0"}
    assert only(root, "./devices/panic").get("model") == "isa"
    assert only(root, "genid").text is None  # libvirt makes one for each start


def test_the_serial_console_is_logged_to_its_own_file() -> None:
    assert only(parsed(), "./devices/serial/log").get("file") == FILES.console


def test_without_a_file_for_it_no_log_is_kept() -> None:
    root = parsed(files=replace(FILES, console=""))
    assert root.findall(".//log") == []
    assert [only(root, f"./devices/{one}").get("type") for one in ("serial", "console")] == ["pty", "pty"]


def test_a_crash_or_power_off_ends_the_machine_and_a_restart_does_not() -> None:
    root = parsed()
    events = {tag: only(root, tag).text for tag in ("on_poweroff", "on_reboot", "on_crash")}
    assert events == {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}


def test_size_is_as_declared() -> None:
    root = parsed(blueprint(memory=768 * MIB, vcpus=3))
    assert (only(root, "memory").text, only(root, "memory").get("unit")) == (str(768 * 1024), "KiB")
    assert only(root, "vcpu").text == "3"


@pytest.mark.parametrize(
    ("accelerator", "kind", "cpu"), [("kvm", "kvm", "host-model"), ("tcg", "qemu", "maximum")]
)
def test_the_cpu_is_as_the_accelerator_asks(accelerator: str, kind: str, cpu: str) -> None:
    root = parsed(accelerator=accelerator)
    assert (root.get("type"), only(root, "cpu").get("mode")) == (kind, cpu)


@pytest.mark.parametrize("nic", [USER, NETWORK])
def test_of_an_emulated_cpu_libvirt_asks_few_questions_and_of_a_kvm_one_all(nic: Nic) -> None:
    emulated = only(parsed(blueprint(nic=nic)), QEMU_CAPABILITIES)
    assert [(one.tag, one.attrib) for one in emulated] == [
        (f"{{{QEMU_NS}}}del", {"capability": "cpu-unavailable-features"})
    ]
    assert parsed(blueprint(nic=nic), accelerator="kvm").find(QEMU_CAPABILITIES) is None


def qemu_arguments(root: ElementTree.Element) -> list[str | None]:
    return [one.get("value") for one in root.findall(f"./{{{QEMU_NS}}}commandline/{{{QEMU_NS}}}arg")]


def test_in_user_mode_declared_ports_are_forwarded_from_the_members_own_address() -> None:
    root = parsed()
    netdev, device = qemu_arguments(root)[1::2]
    assert netdev is not None
    assert netdev.split(",") == [
        "user",
        "id=understudy0",
        "restrict=on",
        "ipv6=off",
        "hostfwd=tcp:127.77.0.2:20022-:22",
        "hostfwd=tcp:127.77.0.2:20080-:80",
        "hostfwd=tcp:127.77.0.2:8080-:8080",
    ]
    assert device is not None
    assert "mac=52:54:00:aa:bb:cc" in device.split(",")
    assert not root.findall("./devices/interface")


def test_a_guest_gets_out_only_where_that_is_allowed() -> None:
    netdev = qemu_arguments(parsed(blueprint(nic=replace(USER, outbound=True))))[1]
    assert netdev is not None
    assert "restrict=off" in netdev.split(",")


def test_in_network_mode_the_card_is_libvirts() -> None:
    root = parsed(blueprint(nic=NETWORK))
    assert only(root, "./devices/interface/source").get("network") == "default"
    assert only(root, "./devices/interface/mac").get("address") == "52:54:00:aa:bb:cc"
    assert qemu_arguments(root) == []


hostile = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=30)
hostile |= st.sampled_from(["]]>", "<!--", "'\"&<>", "</domain>", "&amp;", "ä 你好", "a\tb", "../../etc"])


@many
@given(hostile, hostile)
def test_no_name_or_path_breaks_out_of_its_place(name: str, path: str) -> None:
    blueprint_ = blueprint(member=name, set_name=name, model=name, nic=replace(NETWORK, network=name))
    root = parsed(blueprint_, MachineFiles(path, path, path, path))
    owner = only(root, f"./metadata/{{{METADATA_NS}}}owner")
    # XML itself turns a tab in an attribute into a space unless it is escaped.
    assert (owner.get("member"), owner.get("set"), owner.get("model")) == (name, name, name)
    assert [one.get("file") for one in root.findall("./devices/disk/source")] == [path, path]
    assert only(root, "./devices/interface/source").get("network") == name
    assert [child.tag for child in root] == [child.tag for child in parsed(blueprint(nic=NETWORK))]


# ---- what else a guest may have drivers for ------------------------------------------------------------------

EVERY_HARDWARE = [
    Hardware(firmware, disk_bus, nic, is_windows)
    for firmware in get_args(Firmware)
    for disk_bus in get_args(DiskBus)
    for nic in get_args(NicModel)
    for is_windows in (False, True)
]


@pytest.fixture(scope="module")
def libvirt_for_tests() -> Iterator[Any]:
    """libvirt's own driver for tests: nothing runs, but what it is given must be what its schema says."""
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
@pytest.mark.parametrize("nic", [USER, NETWORK], ids=["user", "network"])
def test_libvirts_schema_takes_a_domain_of_any_hardware(
    libvirt_for_tests: Any, nic: Nic, accelerator: str
) -> None:
    for hardware in EVERY_HARDWARE:
        root = parsed(blueprint(hardware=hardware, nic=nic), accelerator=accelerator)
        root.set("type", "test")
        text = ElementTree.tostring(root, encoding="unicode")
        libvirt_for_tests.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).undefine()


def test_what_the_schema_does_not_know_is_refused_by_the_driver_for_tests(libvirt_for_tests: Any) -> None:
    root = parsed(blueprint(hardware=Hardware(firmware="uefi-secure")))
    root.set("type", "test")
    only(root, "./devices/tpm").set("model", "tpm-of-nobody")
    with pytest.raises(libvirt.libvirtError, match="schema"):
        libvirt_for_tests.defineXMLFlags(
            ElementTree.tostring(root, encoding="unicode"), libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        )


@pytest.mark.parametrize("hardware", EVERY_HARDWARE)
def test_no_two_disks_have_the_same_name_and_the_overlay_is_the_first(hardware: Hardware) -> None:
    overlay, seed = parsed(blueprint(hardware=hardware)).findall("./devices/disk")
    assert only(overlay, "source").get("file") == FILES.overlay
    bus = "sata" if hardware.is_windows else "virtio"
    assert (seed.get("device"), only(seed, "target").get("bus")) == ("cdrom" if bus == "sata" else "disk", bus)
    assert only(overlay, "target").get("bus") == hardware.disk_bus
    assert only(overlay, "target").get("dev") == ("vda" if hardware.disk_bus == "virtio" else "sda")
    assert only(overlay, "target").get("dev") != only(seed, "target").get("dev")
    assert seed.find("readonly") is not None


@pytest.mark.parametrize(("firmware", "bus"), [("bios", "pci.0"), ("uefi", "pcie.0"), ("uefi-secure", "pcie.0")])
@pytest.mark.parametrize(("nic", "model"), [("virtio", "virtio-net-pci"), ("e1000e", "e1000e")])
def test_the_card_sits_on_the_root_bus_of_its_machine(firmware: Any, bus: str, nic: Any, model: str) -> None:
    hardware = Hardware(firmware=firmware, nic=nic)
    device = qemu_arguments(parsed(blueprint(hardware=hardware)))[3]
    assert device == f"{model},netdev=understudy0,mac={USER.mac},bus={bus},addr=0x1e"
    root = parsed(blueprint(hardware=hardware, nic=NETWORK))
    assert only(root, "./devices/interface/model").get("type") == nic


@pytest.mark.parametrize(("firmware", "enabled"), [("uefi", "no"), ("uefi-secure", "yes")])
def test_firmware_is_chosen_by_its_features(firmware: Any, enabled: str) -> None:
    root = parsed(blueprint(hardware=Hardware(firmware=firmware)))
    assert (only(root, "os").get("firmware"), only(root, "os/type").get("machine")) == ("efi", "q35")
    features = {one.get("name"): one.get("enabled") for one in root.findall("./os/firmware/feature")}
    assert features == {"secure-boot": enabled, "enrolled-keys": enabled}
    is_secure = enabled == "yes"
    assert len(root.findall("./features/smm[@state='on']")) == is_secure
    assert len(root.findall("./devices/tpm[@model='tpm-crb']/backend[@version='2.0']")) == is_secure


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_windows_is_told_that_it_is_a_guest_as_far_as_the_accelerator_can(accelerator: str) -> None:
    root = parsed(blueprint(hardware=Hardware(is_windows=True)), accelerator=accelerator)
    always = ["relaxed", "vapic", "spinlocks"]
    with_kvm = ["vpindex", "synic", "stimer"] if accelerator == "kvm" else []
    assert [one.tag for one in only(root, "./features/hyperv")] == always + with_kvm
    assert only(root, "./features/hyperv/spinlocks").get("retries") == "8191"
    assert only(root, "clock").get("offset") == "localtime"
    timers = [one.get("name") for one in root.findall("./clock/timer")]
    assert timers == ["rtc", "pit", "hpet"] + (["hypervclock"] if accelerator == "kvm" else [])


def test_a_linux_guest_has_none_of_what_windows_asks_for() -> None:
    root = parsed(blueprint(hardware=Hardware("uefi-secure", "sata", "e1000e")), accelerator="kvm")
    assert (
        root.findall("./features/hyperv") == root.findall("./clock/timer") == root.findall("./devices/video") == []
    )
    assert only(root, "clock").get("offset") == "utc"


# ---- disks that outlive the machine --------------------------------------------------------------------------

LOCAL = ExtraDisk("understudy-local.web-4tz9k.1.qcow2", "local-storage", 0, 1024 * MIB)
DRIVES = tuple(
    ExtraDisk(f"understudy-drive.web.{name}.0.qcow2", f"drive-{name}", number, 1024 * MIB, is_drive=True)
    for number, name in enumerate(("data", "logs"), start=1)
)


def stored(*disks: ExtraDisk) -> MachineFiles:
    return replace(FILES, disks=tuple(f"/srv/volumes/{disk.volume}" for disk in disks))


@pytest.mark.parametrize("bus", ["virtio", "sata"])
def test_local_storage_and_drives_as_golden_files(bus: DiskBus) -> None:
    disks = (LOCAL, *DRIVES)
    made = blueprint(disks=disks, hardware=Hardware(disk_bus=bus))
    text = render_domain(made, stored(*disks), "tcg")
    assert_golden(f"domain-storage-{bus}.xml", text)


def test_in_none_of_them_a_format_or_another_file_is_looked_for() -> None:
    root = parsed(blueprint(disks=(LOCAL, *DRIVES)), stored(LOCAL, *DRIVES))
    disks = [disk for disk in root.findall("./devices/disk") if disk.find("serial") is not None]
    assert [only(disk, "driver").get("type") for disk in disks] == ["qcow2"] * 3
    assert [list(only(disk, "backingStore")) for disk in disks] == [[], [], []]


@many
@given(
    st.sampled_from(get_args(DiskBus)),
    st.booleans(),
    st.booleans(),
    st.sets(st.integers(1, 8)),
)
def test_no_two_disks_have_one_name_and_each_keeps_its_own(
    bus: DiskBus, windows: bool, seed: bool, positions: set[int]
) -> None:
    drives = [ExtraDisk(f"v{number}", f"drive-{number}", number, MIB, is_drive=True) for number in positions]
    disks = (LOCAL, *drives)
    files = replace(stored(*disks), seed=FILES.seed if seed else "")
    root = parsed(blueprint(disks=disks, hardware=Hardware(disk_bus=bus, is_windows=windows)), files)
    names = [target.get("dev", "") for target in root.findall("./devices/disk/target")]
    assert len(set(names)) == len(names)
    by_serial = {
        only(disk, "serial").text: only(disk, "target").get("dev")
        for disk in root.findall("./devices/disk")
        if disk.find("serial") is not None
    }
    letters = {f"drive-{number}": f"{names[0][:2]}{'cdefghijk'[number]}" for number in positions}
    assert by_serial == {"local-storage": f"{names[0][:2]}c", **letters}


def test_a_disk_that_is_attached_later_is_as_one_that_was_there_from_the_start() -> None:
    root = parsed(blueprint(disks=(LOCAL,)), stored(LOCAL))
    (built_in,) = (disk for disk in root.findall("./devices/disk") if disk.find("serial") is not None)
    later = ElementTree.fromstring(render_disk(LOCAL, f"/srv/volumes/{LOCAL.volume}", Hardware()))
    assert [(one.tag, one.attrib, (one.text or "").strip()) for one in later.iter()] == [
        (one.tag, one.attrib, (one.text or "").strip()) for one in built_in.iter()
    ]
