"""The checks, in the order in which an operator would mend what they find."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.config.settings import HostSettings, Settings
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.qemu_user import QemuUser, find_qemu_user
from orchestrator.doctor.tpm import examine_authority
from orchestrator.drivers.libvirt.accelerator import Accelerator
from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.host_memory import read_memory
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import UnderstudyError

_MIN_LIBVIRT = (8, 0, 0)
_MIN_QEMU = (5, 2, 0)
_MIN_HAPROXY = (2, 6)
_MIN_DISK = 5 * 2**30
_MIN_MEMORY = 2**30


@dataclass(frozen=True)
class Subject:
    """The installation under examination. `accelerator` boots the probe guest anew."""

    settings: Settings
    state_dir: Path
    connections: dict[str, LibvirtConnection]
    volumes: dict[str, Volumes]
    accelerator: Callable[[HostSettings], Accelerator]
    own_addresses: frozenset[str]
    network: Callable[[], object]


def examine(subject: Subject) -> Iterator[Finding]:
    """One finding after the other, so that a slow check does not hold back what is known."""
    yield from _state_dir(subject)
    for host in subject.settings.hosts:
        findings = list(_libvirt(subject, host))
        yield from findings
        if all(finding.level == "ok" for finding in findings):
            yield from _kvm_device(subject.connections[host.name], host)
            yield from _storage(subject, host)
            yield from _accelerator(subject, host)
            yield _memory(subject, host)
            if host.uri.partition("?")[0] == "qemu:///system":
                yield from examine_authority(f"TPMs on {host.name}")
    yield _program("qemu-img", "qemu-utils", "images cannot be inspected")
    yield _program("prlimit", "util-linux", "images are inspected within limits only")
    yield _haproxy()
    yield from _network(subject)


def _state_dir(subject: Subject) -> Iterator[Finding]:
    free = shutil.disk_usage(subject.state_dir).free
    text = f"{subject.state_dir}, {free / 2**30:.1f} GiB free"
    if free < _MIN_DISK:
        yield Finding("state directory", "fault", text, "free disk space, or give another --state-dir")
    else:
        yield Finding("state directory", "ok", text)


def _libvirt(subject: Subject, host: HostSettings) -> Iterator[Finding]:
    name = f"libvirt on {host.name}"
    try:
        connection = subject.connections[host.name].get()
    except UnderstudyError as error:
        fix = "apt-get install libvirt-daemon-system, then: systemctl start libvirtd (or scripts/libvirtd-up)"
        yield Finding(name, "fault", error.message, fix)
        return
    version = _numbers(connection.getLibVersion())
    qemu = _numbers(connection.getVersion())
    for what, found, least in (("libvirt", version, _MIN_LIBVIRT), ("QEMU", qemu, _MIN_QEMU)):
        dotted = ".".join(map(str, found))
        if found < least:
            yield Finding(f"{what} on {host.name}", "fault", f"version {dotted} is too old", f"upgrade {what}")
        else:
            yield Finding(f"{what} on {host.name}", "ok", f"version {dotted} at {host.uri}")


def _numbers(version: int) -> tuple[int, int, int]:
    """libvirt's encoding: major * 1,000,000 + minor * 1,000 + release."""
    return version // 1_000_000, version // 1_000 % 1_000, version % 1_000


def _kvm_device(connection: LibvirtConnection, host: HostSettings) -> Iterator[Finding]:
    device = Path("/dev/kvm")
    if not host.uri.startswith("qemu:///") or not device.exists():
        return
    uri = host.uri.partition("?")[0]
    user = _qemu_user(connection) if uri == "qemu:///system" else None
    if user is not None and not user.may_open(device):
        yield Finding(
            "/dev/kvm",
            "warning",
            "is closed to QEMU's user: libvirt probes QEMU anew at every start, 5 to 10 s each",
            "chown root:kvm /dev/kvm && chmod 660 /dev/kvm",
        )
    elif uri == "qemu:///session" and not os.access(device, os.R_OK | os.W_OK):
        yield Finding(
            "/dev/kvm",
            "warning",
            "is not open to this user",
            f"usermod -aG kvm {os.environ.get('USER', 'USER')}",
        )
    else:
        yield Finding("/dev/kvm", "ok", "can be opened by QEMU")


def _storage(subject: Subject, host: HostSettings) -> Iterator[Finding]:
    name = f"storage pool on {host.name}"
    volumes = subject.volumes[host.name]
    try:
        path = Path(volumes.make_filled(f"{subject.settings.prefix}-doctor", b"doctor"))
        content = volumes.read_at(f"{subject.settings.prefix}-doctor", 0, 16)
        volumes.remove(f"{subject.settings.prefix}-doctor")
    except UnderstudyError as error:
        yield Finding(name, "fault", error.message, error.fix or "see the journal of libvirtd")
        return
    if content != b"doctor":
        yield Finding(name, "fault", f"what is written to {path.parent} is not read back", "check the disk")
        return
    user = _qemu_user(subject.connections[host.name]) if "///" in host.uri else None
    blocked = user.find_blocked(path.parent) if user is not None else None
    if blocked is not None:
        yield Finding(
            name,
            "fault",
            f"QEMU's user may not pass through {blocked}, so it cannot reach {path.parent}",
            f"chmod o+x {blocked}, or give another --state-dir",
        )
        return
    yield Finding(name, "ok", f"{path.parent} is writable and within QEMU's reach")


def _qemu_user(connection: LibvirtConnection) -> QemuUser | None:
    return find_qemu_user(connection.get().getCapabilities())


def _accelerator(subject: Subject, host: HostSettings) -> Iterator[Finding]:
    name = f"accelerator on {host.name}"
    try:
        found = subject.accelerator(host)
    except UnderstudyError as error:
        yield Finding(name, "fault", error.message, error.fix)
        return
    if found.kind == "kvm":
        yield Finding(name, "ok", f"kvm: {found.why}")
    else:
        yield Finding(
            name,
            "warning",
            f"tcg (emulation, slower): {found.why}",
            "use a host with VT-x or AMD-V, or enable nested virtualisation; tcg works meanwhile",
        )


def _memory(subject: Subject, host: HostSettings) -> Finding:
    free = read_memory(subject.connections[host.name].get()).available
    text = f"{free / 2**30:.1f} GiB free"
    if free < _MIN_MEMORY:
        return Finding(f"memory on {host.name}", "fault", text, "stop something, or declare smaller machines")
    return Finding(f"memory on {host.name}", "ok", text)


def _program(command: str, package: str, consequence: str) -> Finding:
    if shutil.which(command):
        return Finding(command, "ok", "is installed")
    return Finding(command, "fault", f"is missing: {consequence}", f"apt-get install {package}")


def _haproxy() -> Finding:
    tool = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if tool is None:
        return Finding("HAProxy", "fault", "is missing: no endpoint can listen", "apt-get install haproxy")
    done = subprocess.run([tool, "-v"], capture_output=True, text=True, check=False, timeout=10)
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if match is None:
        return Finding(
            "HAProxy", "fault", f"{tool} does not tell its version", "apt-get install --reinstall haproxy"
        )
    found = (int(match[1]), int(match[2]))
    text = f"version {found[0]}.{found[1]}"
    if found < _MIN_HAPROXY:
        return Finding("HAProxy", "fault", f"{text} is too old", "install HAProxy 2.6 or newer")
    return Finding("HAProxy", "ok", text)


def _network(subject: Subject) -> Iterator[Finding]:
    network = subject.settings.network
    try:
        subject.network()
    except UnderstudyError as error:
        fix = error.fix or f"virsh net-start {network.name or 'NAME'}"
        yield Finding("guest network", "fault", error.message, fix)
        return
    if network.mode == "network":
        yield Finding("guest network", "ok", f"libvirt network {network.name}")
        return
    elsewhere = hosts_elsewhere(subject.settings.hosts)
    if elsewhere:
        yield Finding(
            "guest network",
            "fault",
            f"mode user gives guests addresses that only their own host reaches, and these are other machines: "
            f"{', '.join(elsewhere)}",
            'take them out of config.toml, or set network.mode = "network"',
        )
    taken = sorted(foreign_listeners(network.range, Path("/proc/net/tcp")) - subject.own_addresses)
    if taken:
        yield Finding(
            "address range",
            "warning",
            f"others listen in {network.range}: {', '.join(taken[:5])}",
            "set another network.range in config.toml, for example 127.78.0.0/16",
        )
    else:
        yield Finding("guest network", "ok", f"user mode, {network.range} is free")


def hosts_elsewhere(hosts: Iterable[HostSettings]) -> list[str]:
    """Names of hosts whose URI leads to another machine."""
    here = (None, "", "localhost", "127.0.0.1", "::1")
    return [host.name for host in hosts if urlsplit(host.uri).hostname not in here]


def foreign_listeners(allotted: str, table: Path) -> set[str]:
    """Addresses of the range on which something listens, from proc(5)'s /proc/net/tcp."""
    network = ipaddress.IPv4Network(allotted)
    found = set()
    for line in table.read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.split()
        address = ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(fields[1].partition(":")[0]), "little"))
        if fields[3] == "0A" and address in network:
            found.add(str(address))
    return found
