"""virt-lightning, from PyPI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.support.benchmarks.tools.lab import ADDRESSES, DISK_GIB, MEMORY_MIB, NETWORK
from tests.support.benchmarks.tools.tool import Command, Tool

_POOL = "virt-lightning"
_STORAGE = "/var/lib/virt-lightning/pool"


class VirtLightning(Tool):
    name = "virt-lightning 2.5.0"
    differs = "CPU host-model, a VNC display, a USB controller"

    def prepare(self) -> None:
        box = self.lab.toolbox
        box.install_packages("genisoimage")
        pins = ("virt-lightning==2.5.0", "libvirt-python==12.0.0", "PyYAML==6.0.3")
        self._program = box.install_python("virt-lightning", *pins) / "vl"
        directory = self.lab.directory("virt-lightning")
        # libvirtd and the tool must see one directory under the tool's own fixed name.
        images = directory / "upstream"
        images.mkdir()
        (images / "micro.qcow2").hardlink_to(self.lab.base)
        box.run("sh", "-c", f"mkdir -p {_STORAGE}/upstream")
        self.lab.define_pool(_POOL, directory)
        text = (
            f"[main]\nstorage_pool = {_POOL}\nnetwork_name = {NETWORK}\nnetwork_cidr = 192.168.203.0/29\n"
            f"network_auto_clean_up = False\nssh_key_file = {self.lab.key}.pub\n"
        )
        self._configuration = self._write("config.ini", text)

    def command(self, names: Sequence[str]) -> Command:
        machines = [self._machine(name, address) for name, address in zip(names, ADDRESSES, strict=False)]
        # JSON is YAML.
        declared = self._write("machines.yaml", json.dumps(machines))
        options = ["--config", str(self._configuration), "up", "--virt-lightning-yaml", str(declared)]
        return [str(self._program), *options]

    def _machine(self, name: str, address: str) -> dict[str, object]:
        return {
            "name": name,
            "distro": "micro",
            "memory": MEMORY_MIB,
            "vcpus": 1,
            "disks": [{"size": DISK_GIB}],
            "networks": [{"network": NETWORK, "ipv4": f"{address}/29"}],
            "metadata_format": {"provider": "nocloud"},
            "meta_data_media_type": "disk",
        }

    def clean(self, names: Sequence[str]) -> None:
        self.lab.empty_pool(_POOL, but="upstream")

    def _write(self, name: str, text: str) -> Path:
        path = self.lab.root / f"virt-lightning-{name}"
        path.write_text(text, encoding="utf-8")
        return path
