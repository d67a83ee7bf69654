"""Machines with UEFI: the firmware really starts, with secure boot and a TPM of its own where that is declared."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.installation import Installation, installation, wait_until

pytestmark = pytest.mark.guest

STATE = Path("/var/lib/libvirt")  # where libvirtd keeps variables of firmware and states of TPMs

SET = """\
kind: ScaleSet
name: fw
image: micro
instances: 1
machine: {{memory: 256MiB, firmware: {firmware}, disk_bus: sata, nic: e1000e}}
setup: {{answer_file: none}}
"""


def emulators(on: Installation) -> list[str]:
    """Processes that play a TPM for a machine of this installation."""
    done = subprocess.run(["pgrep", "-af", "^(/usr/bin/)?swtpm "], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if on.prefix in line]


@pytest.mark.parametrize(("firmware", "tpms"), [("uefi", 0), ("uefi-secure", 1)])
def test_the_firmware_starts_and_leaves_nothing_behind(micro_image: Path, firmware: str, tpms: int) -> None:
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("fw.yaml", SET.format(firmware=firmware))
        made.run("apply", str(made.root / "fw.yaml"))
        (row,) = made.members("instance", "fw")
        assert row["power"] == "running"
        target = f"fw/{row['name']}"
        # The image boots from BIOS only: what is asked is that the firmware comes to the point of saying so.
        wait_until(lambda: "BdsDxe" in made.run("console", target, "--log"), 120, "the firmware speaks")
        xml = subprocess.run(
            ["virsh", "-c", made.uri, "dumpxml", row["domain"]], capture_output=True, text=True, check=True
        ).stdout
        assert ("secure='yes'" in xml) == (tpms == 1)
        kept = [STATE / "qemu" / "nvram" / f"{row['domain']}_VARS.fd"]
        if tpms:
            kept.append(STATE / "swtpm" / str(ElementTree.fromstring(xml).findtext("uuid")))
        assert all(path.exists() for path in kept)
        assert len(emulators(made)) == tpms
        made.run("delete", "fw")
        wait_until(lambda: emulators(made) == [], 10, "its TPM ends with it")
        assert [path for path in kept if path.exists()] == []
