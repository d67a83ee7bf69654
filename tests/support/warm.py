"""Micro guests that have booted before: what a test asks of one that is up need not cost it a boot."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.save_image import copy_save_image, read_save_image
from orchestrator.render.fork import render_fork

BASE, _PREFIX = Path("/var/tmp"), "understudy-warm-"
_DEFINED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE


class WarmGuest:
    """Disk and memory of one guest that had booted. Machines of other names go on from them, but they are defined
    and started as machines that boot: a golden image can be taken of each."""

    def __init__(self) -> None:
        self._kept: tempfile.TemporaryDirectory[str] | None = None

    def start(self, domain: Any, await_guest: Callable[[], None]) -> None:
        """`domain` was just created, without a seed and further disks. The first one boots, for all."""
        if self._kept is None:
            await_guest()
            self._keep(domain)
        else:
            self._go_on(domain, Path(self._kept.name))

    def _keep(self, domain: Any) -> None:
        kept = _make_room()
        memory = Path(kept.name) / "memory"
        domain.save(str(memory))
        _copy(overlay_of(domain), Path(kept.name) / "disk")
        self._kept = kept
        self._go_on(domain, Path(kept.name))

    def _go_on(self, domain: Any, kept: Path) -> None:
        if domain.isActive():
            domain.destroy()
        overlay = overlay_of(domain)
        status = overlay.stat()
        chain = subprocess.run(
            ["qemu-img", "info", "-U", str(overlay)], capture_output=True, text=True, check=True
        )
        (base,) = (line.split(": ")[1] for line in chain.stdout.splitlines() if line.startswith("backing file: "))
        _copy(kept / "disk", overlay)
        subprocess.run(["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", base, str(overlay)], check=True)
        assert (overlay.stat().st_uid, overlay.stat().st_mode) == (status.st_uid, status.st_mode)
        image = read_save_image(kept / "memory")
        own = kept / "own"
        copy_save_image(kept / "memory", own, replace(image, xml=render_fork(image.xml, domain.XMLDesc(_DEFINED))))
        try:
            domain.connect().restoreFlags(str(own), None, libvirt.VIR_DOMAIN_SAVE_RUNNING)
        finally:
            own.unlink()


def _make_room() -> tempfile.TemporaryDirectory[str]:
    """Named after this process; what killed ones have left goes."""
    for left in BASE.glob(f"{_PREFIX}*"):
        if not Path("/proc", left.name.removeprefix(_PREFIX).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=BASE)


def overlay_of(domain: Any) -> Path:
    source = ElementTree.fromstring(domain.XMLDesc(_DEFINED)).find("./devices/disk/source")
    assert source is not None
    return Path(str(source.get("file")))


def _copy(source: Path, target: Path) -> None:
    """Holes stay holes; owner and mode of a target that is there stay, too."""
    subprocess.run(["cp", "--sparse=always", "--no-preserve=all", str(source), str(target)], check=True)
