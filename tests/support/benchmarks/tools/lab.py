"""Where tools are measured: one private host without KVM, with libvirt's `default` network and one base image."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import libvirt

from tests.support.benchmarks.tools.toolbox import Toolbox, toolbox
from tests.support.guest_images import guest_image
from tests.support.installation import BASE
from tests.support.private_host import PrivateHost

MEMORY_MIB = 128
DISK_GIB = 1
CPU = "maximum"  # as the product has it under emulation
MACHINE = "pc"
NETWORK = "default"
BRIDGE = "virbr0"
SUBNET = "192.168.203"
ADDRESSES = tuple(f"{SUBNET}.{last}" for last in range(2, 7))
"""All that a machine can get: as many as there are machines at most."""

# Without a forward: nothing leaves the namespace. no-ping: dnsmasq would keep a new lease back for 3 s to see
# whether the address is taken, which would be most of what is measured.
_NETWORK_XML = f"""\
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>{NETWORK}</name>
  <bridge name='{BRIDGE}' stp='off' delay='0'/>
  <ip address='{SUBNET}.1' netmask='255.255.255.248'>
    <dhcp><range start='{ADDRESSES[0]}' end='{ADDRESSES[-1]}'/></dhcp>
  </ip>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>
"""

# In the image, so that no tool has to bring it. Without a seed the micro guest forgets the keys of its image, and
# takes no other: the lab's is given back to it. A seed that it does not understand leaves it without an address:
# then it asks DHCP.
_SERVICE = """\
#!/bin/sh
cat /etc/lab.pub >> /root/.ssh/authorized_keys
ip -4 address show dev eth0 | grep -q inet || udhcpc -i eth0 -b -t 20 -T 1 > /dev/null 2>&1
mkdir -p /srv/www
hostname > /srv/www/index.html
httpd -p 80 -h /srv/www
"""

_BOOT, _KEY = "/etc/boot.d/50-service", "/etc/lab.pub"


class Lab:
    """A host that is nobody else's: every domain on it is a measured one, but those in `kept`."""

    def __init__(self, root: Path, host: PrivateHost, toolbox: Toolbox, connection: libvirt.virConnect) -> None:
        self.root = root
        self.host = host
        self.toolbox = toolbox
        self.connection = connection
        self.base = root / "images" / "base.qcow2"
        self.key = root / "id_ed25519"
        self.kept: set[str] = set()

    def furnish(self) -> None:
        """Its key, base image and network."""
        self._forget_copies()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self._make_base()
        self.connection.networkDefineXML(_NETWORK_XML)
        self.renew_network()

    def directory(self, name: str) -> Path:
        """One of the lab's, which QEMU's user can reach."""
        made = self.root / name
        made.mkdir(mode=0o755, exist_ok=True)
        return made

    def sweep(self) -> None:
        """Every machine that is not kept, and its definition. Disks are left to whoever made them."""
        for domain in self.connection.listAllDomains():
            if domain.name() not in self.kept:
                if domain.isActive():
                    domain.destroy()
                with contextlib.suppress(libvirt.libvirtError):
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)

    def renew_network(self) -> None:
        """Off and on again, without leases and host entries: each run finds all addresses free."""
        network = self.connection.networkLookupByName(NETWORK)
        if network.isActive():
            network.destroy()
        for file in self.host.path("/var/lib/libvirt/dnsmasq").glob(f"{BRIDGE}.*"):
            file.unlink()
        network.create()
        # A guest with a fixed address says nothing by itself: the host asks for it more often than once a second.
        pause = f"/proc/sys/net/ipv4/neigh/{BRIDGE}/retrans_time_ms"
        self.host.run("sh", "-c", f"echo 100 > {pause}")

    def define_pool(self, name: str, directory: Path) -> libvirt.virStoragePool:
        """A running pool of the files of that directory."""
        xml = f"<pool type='dir'><name>{name}</name><target><path>{directory}</path></target></pool>"
        pool = self.connection.storagePoolDefineXML(xml)
        pool.create()
        return pool

    def empty_pool(self, name: str, but: str = "") -> None:
        """Delete its volumes, without the one named `but`."""
        pool = self.connection.storagePoolLookupByName(name)
        pool.refresh()
        for volume in pool.listAllVolumes():
            if volume.name() != but:
                volume.delete()

    def seed_documents(self, name: str) -> tuple[Path, Path]:
        """NoCloud's meta-data and user-data of a machine, as files for tools that take them."""
        seeds = self.directory("seeds")
        meta, user = seeds / f"{name}-meta-data", seeds / f"{name}-user-data"
        meta.write_text(f"instance-id: {name}\nlocal-hostname: {name}\n", encoding="utf-8")
        user.write_text(f"#cloud-config\nssh_authorized_keys:\n  - {self.public_key}\n", encoding="utf-8")
        return meta, user

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text(encoding="utf-8").strip()

    def _forget_copies(self) -> None:
        """The private host has copies of the machine's own definitions."""
        self.sweep()
        for one in [*self.connection.listAllStoragePools(), *self.connection.listAllNetworks()]:
            if one.isActive():
                one.destroy()
            with contextlib.suppress(libvirt.libvirtError):
                one.undefine()

    def _make_base(self) -> None:
        """The micro image with a web server that starts by itself, and the lab's key for root."""
        self.base.parent.mkdir(mode=0o755)
        raw, service = self.root / "base.raw", self.root / "service"
        _run("qemu-img", "convert", "-O", "raw", str(guest_image("micro")), str(raw))
        service.write_text(_SERVICE, encoding="utf-8")
        table = json.loads(_run("sfdisk", "--json", str(raw)))["partitiontable"]
        offset = table["partitions"][-1]["start"] * 512
        orders = self.root / "orders"
        orders.write_text(
            f"write {service} {_BOOT}\nsif {_BOOT} mode 0100755\n"
            f"write {self.key}.pub {_KEY}\nsif {_KEY} mode 0100644\n",
            encoding="utf-8",
        )
        _run("debugfs", "-w", "-f", str(orders), f"{raw}?offset={offset}")
        _run("qemu-img", "convert", "-O", "qcow2", str(raw), str(self.base))
        raw.unlink()
        self.base.chmod(0o444)


def overlay_command(base: Path, path: Path) -> str:
    return f"qemu-img create -q -f qcow2 -F qcow2 -b {base} {path} {DISK_GIB}G"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def remove_files(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Running, and removed with everything in it."""
    root = BASE / f"understudy-tools-{secrets.token_hex(4)}"
    root.mkdir(mode=0o711)
    host = PrivateHost(root / "host", kvm=False)
    try:
        host.start()
        with toolbox(root, host) as box, contextlib.closing(libvirt.open(host.uri)) as connection:
            made = Lab(root, host, box, connection)
            made.furnish()
            yield made
    finally:
        host.stop()
        shutil.rmtree(root)
