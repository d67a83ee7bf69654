"""testcloud, from PyPI."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence

from tests.support.benchmarks.tools.lab import DISK_GIB, MEMORY_MIB
from tests.support.benchmarks.tools.tool import Command, Tool, all_at_once


class Testcloud(Tool):
    name = "testcloud 0.12.0"
    differs = "q35, CPU qemu64, disk cache unsafe"
    __test__ = False

    def prepare(self) -> None:
        box = self.lab.toolbox
        box.install_packages("genisoimage", "acl")
        self._program = (
            box.install_python("testcloud", "testcloud==0.12.0", "libvirt-python==12.0.0") / "testcloud"
        )
        self._data = self.lab.directory("testcloud")
        for name in ("instances", "backingstores"):
            self.lab.directory(f"testcloud/{name}")
        settings = box.home / ".config" / "testcloud" / "settings.py"
        settings.parent.mkdir(parents=True)
        lines = [
            f"DATA_DIR = CONSOLE_LOG_DIR = {str(self._data)!r}",
            f"STORE_DIR = {str(self._data / 'backingstores')!r}",
            f"USER_DATA = '#cloud-config\\nssh_authorized_keys:\\n  - {self.lab.public_key}\\n'",
        ]
        settings.write_text("\n".join(lines), encoding="utf-8")

    def command(self, names: Sequence[str]) -> Command:
        return all_at_once([shlex.join(self._create(name)) for name in names])

    def _create(self, name: str) -> Command:
        size = ["--ram", str(MEMORY_MIB), "--vcpus", "1", "--disksize", str(DISK_GIB)]
        where = ["--connection", "qemu:///system"]
        return [str(self._program), *where, "create", "--name", name, *size, f"file://{self.lab.base}"]

    def clean(self, names: Sequence[str]) -> None:
        for name in names:
            shutil.rmtree(self._data / "instances" / name, ignore_errors=True)
        for log in self._data.glob("*-console.log"):
            log.unlink()
