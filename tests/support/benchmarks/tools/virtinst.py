"""virt-install and virt-clone, Debian's packages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tests.support.benchmarks.tools.lab import CPU, DISK_GIB, MACHINE, MEMORY_MIB, NETWORK, remove_files
from tests.support.benchmarks.tools.tool import Command, Tool, all_at_once

# genisoimage: virt-install makes the seed with it.
_PACKAGES = ("virtinst=1:4.1.*", "genisoimage")


class VirtInstall(Tool):
    """An overlay on the base image and a seed for each machine."""

    name = "virt-install 4.1"
    differs = "its seed is an IDE drive"

    def prepare(self) -> None:
        self.lab.toolbox.install_packages(*_PACKAGES)
        # It would define both pools at its first use, and five at once would be in each other's way.
        self.lab.define_pool("virt-install", self.lab.directory("virt-install"))
        boot = self.lab.host.path("/var/lib/libvirt/boot")
        boot.mkdir(exist_ok=True)
        self.lab.define_pool("boot-scratch", Path("/var/lib/libvirt/boot"))

    def command(self, names: Sequence[str]) -> Command:
        return all_at_once([shlex.join(self._install(name)) for name in names])

    def clean(self, names: Sequence[str]) -> None:
        remove_files([self._disk(name) for name in names])

    def _install(self, name: str) -> Command:
        meta, user = self.lab.seed_documents(name)
        disk = f"path={self._disk(name)},size={DISK_GIB},bus=virtio"
        options = {
            "connect": "qemu:///system",
            "name": name,
            "memory": str(MEMORY_MIB),
            "vcpus": "1",
            "machine": MACHINE,
            "cpu": f"mode={CPU}",
            "virt-type": "qemu",
            "osinfo": "detect=off,require=off",
            "disk": f"{disk},backing_store={self.lab.base},backing_format=qcow2",
            "network": f"network={NETWORK},model=virtio",
            "graphics": "none",
            "cloud-init": f"meta-data={meta},user-data={user}",
        }
        words = [word for option, value in options.items() for word in (f"--{option}", value)]
        return ["virt-install", *words, "--import", "--noautoconsole", "--quiet"]

    def _disk(self, name: str) -> Path:
        return self.lab.directory("virt-install") / f"{name}.qcow2"


class VirtClone(Tool):
    """A full copy of a machine that is off, then its start. Without a seed, so all have the same name. One after
    the other: libvirt lets no two write into one pool like this."""

    name = "virt-clone 4.1"
    differs = "full copy of the disk, no seed"
    _source = "source"

    def prepare(self) -> None:
        self.lab.toolbox.install_packages(*_PACKAGES)
        disk = self._disk(self._source)
        size = f"{DISK_GIB}G"
        script = f"qemu-img convert -O qcow2 {self.lab.base} {disk} && qemu-img resize -q {disk} {size}"
        self.lab.toolbox.run("sh", "-c", script)
        self.lab.kept.add(self._source)
        xml = self.lab.toolbox.run("virt-install", *self._source_options(disk), "--print-xml")
        self.lab.connection.defineXML(xml)

    def command(self, names: Sequence[str]) -> Command:
        commands = [f"{shlex.join(self._clone(name))} && virsh -q start {name}" for name in names]
        return ("sh", "-c", " && ".join(commands))

    def clean(self, names: Sequence[str]) -> None:
        remove_files([self._disk(name) for name in names])

    def _clone(self, name: str) -> Command:
        where = ["--connect", "qemu:///system", "--original", self._source, "--name", name]
        return ["virt-clone", *where, "--file", str(self._disk(name)), "--quiet"]

    def _source_options(self, disk: Path) -> Command:
        options = [
            "--connect",
            "qemu:///system",
            "--name",
            self._source,
            "--memory",
            str(MEMORY_MIB),
            "--vcpus",
            "1",
        ]
        options += ["--machine", MACHINE, "--cpu", f"mode={CPU}", "--virt-type", "qemu", "--import"]
        options += ["--osinfo", "detect=off,require=off", "--disk", f"path={disk},bus=virtio"]
        return [*options, "--network", f"network={NETWORK},model=virtio", "--graphics", "none"]

    def _disk(self, name: str) -> Path:
        return self.lab.directory("virt-clone") / f"{name}.qcow2"
