"""kcli, from PyPI."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.benchmarks.tools.lab import DISK_GIB, MACHINE, MEMORY_MIB, NETWORK
from tests.support.benchmarks.tools.tool import Command, Tool

_POOL, _IMAGE = "default", "micro.qcow2"


class Kcli(Tool):
    """Its seed is on a SATA drive, which the image's kernel cannot see: the machines have no name of their own."""

    name = "kcli 99.0"
    differs = "CPU host-model, its seed is not seen, a VNC display"

    def prepare(self) -> None:
        box = self.lab.toolbox
        box.install_packages("genisoimage")
        pins = ("kcli==99.0.202610251748", "libvirt-python==12.0.0")
        self._program = box.install_python("kcli", *pins) / "kcli"
        images = self.lab.directory("kcli")
        (images / _IMAGE).hardlink_to(self.lab.base)
        self.lab.define_pool(_POOL, images)
        keys = box.home / ".ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        (keys / "id_ed25519.pub").write_text(self.lab.public_key, encoding="utf-8")

    def command(self, names: Sequence[str]) -> Command:
        settings = {
            "numcpus": "1",
            "memory": str(MEMORY_MIB),
            "disks": f"[{DISK_GIB}]",
            "nets": f"[{NETWORK}]",
            "machine": MACHINE,
            "virttype": "qemu",
        }
        words = [word for key, value in settings.items() for word in ("-P", f"{key}={value}")]
        base = names[0].removesuffix("-0")
        count = ["--count", str(len(names))] if len(names) > 1 else []
        return [str(self._program), "create", "vm", "-i", _IMAGE, *words, *count, base]

    def clean(self, names: Sequence[str]) -> None:
        self.lab.empty_pool(_POOL, but=_IMAGE)
