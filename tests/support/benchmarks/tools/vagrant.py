"""vagrant with vagrant-libvirt, Debian's packages."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence

from tests.support.benchmarks.tools.lab import CPU, DISK_GIB, MACHINE, MEMORY_MIB, NETWORK, SUBNET
from tests.support.benchmarks.tools.tool import Command, Tool

_POOL = "vagrant"

_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.box = "micro"
  config.vm.guest = :linux
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.ssh.username = "root"
  config.ssh.private_key_path = "{key}"
  config.ssh.insert_key = false
  config.ssh.shell = "sh"
  config.ssh.sudo_command = "%c"
  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = "qemu"
    libvirt.memory = {memory}
    libvirt.cpus = 1
    libvirt.cpu_mode = "{cpu}"
    libvirt.machine_type = "{machine}"
    libvirt.graphics_type = "none"
    libvirt.storage_pool_name = "{pool}"
    libvirt.management_network_name = "{network}"
    libvirt.management_network_address = "{subnet}.0/29"
    libvirt.management_network_mode = "none"
    libvirt.management_network_keep = true
  end
{machines}
end
"""


class Vagrant(Tool):
    """Without a seed: it gives a machine its name and keys over SSH, for which the image has a key."""

    name = "vagrant-libvirt 0.11.2"
    differs = "no seed, a video card"

    def prepare(self) -> None:
        box = self.lab.toolbox
        box.install_packages("vagrant-libvirt=0.11.2-*", "vagrant=2.3.4*")
        self._site = self.lab.directory("vagrant")
        self.lab.define_pool(_POOL, self.lab.directory("vagrant-images"))
        file = self.lab.root / "micro.box"
        with tarfile.open(file, "w") as archive:
            said = json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GIB}).encode()
            entry = tarfile.TarInfo("metadata.json")
            entry.size = len(said)
            archive.addfile(entry, io.BytesIO(said))
            archive.add(self.lab.base, "box.img")
        box.run(*self._vagrant("box", "add", "--name", "micro", str(file)), seconds=300)
        file.unlink()

    def command(self, names: Sequence[str]) -> Command:
        machines = "\n".join(f'  config.vm.define "{name}"' for name in names)
        text = _VAGRANTFILE.format(
            key=self.lab.key,
            memory=MEMORY_MIB,
            cpu=CPU,
            machine=MACHINE,
            pool=_POOL,
            network=NETWORK,
            subnet=SUBNET,
            machines=machines,
        )
        (self._site / "Vagrantfile").write_text(text, encoding="utf-8")
        return self._vagrant("up", "--provider", "libvirt")

    def clean(self, names: Sequence[str]) -> None:
        self.lab.sweep()
        shutil.rmtree(self._site / ".vagrant", ignore_errors=True)
        pool = self.lab.connection.storagePoolLookupByName(_POOL)
        pool.refresh()
        for volume in pool.listAllVolumes():
            if volume.name().startswith("vagrant_"):
                volume.delete()

    def _vagrant(self, *words: str) -> Command:
        settings = (
            "VAGRANT_CHECKPOINT_DISABLE=1",
            f"VAGRANT_CWD={self._site}",
            "VAGRANT_DISABLE_VBOXSYMLINKCREATE=1",
        )
        return ["env", *settings, "vagrant", *words]
