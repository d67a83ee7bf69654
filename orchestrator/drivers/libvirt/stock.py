"""The Stockroom port on one libvirtd: everything that may be ours on a host, and taking one thing away.

What libvirt keeps beside the disks of a domain (memory image, UEFI variables, TPM state) has no interface of its
own: it is seen, and removed, only where libvirtd runs on this machine and its directories can be read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.accelerator import remove_probe
from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.console_logs import ConsoleLogs
from orchestrator.drivers.libvirt.disks import sources_of
from orchestrator.drivers.libvirt.errors import translated
from orchestrator.drivers.libvirt.networks import Networks
from orchestrator.drivers.libvirt.ownership import find_owner
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import HostError, HostUnreachable, NotFound
from orchestrator.models.naming import SEED_ENDING
from orchestrator.models.stock import DomainStock, HostStock, Remnant, RemnantKind, Reservation

_VARIABLES = "_VARS.fd"
_MEMORY = ".save"
_ISO_MARK, _ISO_MARK_AT = b"CD001", 32769  # ECMA-119: of the first volume descriptor


class LibvirtStock:
    """`network` is that of the guests, empty in user mode."""

    def __init__(
        self, name: str, prefix: str, connection: LibvirtConnection, volumes: Volumes, network: str
    ) -> None:
        self._name = name
        self._prefix = prefix
        self._connection = connection
        self._volumes = volumes
        self._logs = ConsoleLogs(connection.uri, volumes.directory)
        self._networks = Networks(connection)
        self._network = network

    def take_stock(self) -> HostStock:
        with translated(f"cannot take stock of {self._connection.uri}"):
            # Volumes first: one that belongs to a machine made meanwhile is then not taken for left over.
            volumes, logs = self._volumes.list_paths(), self._logs.list_paths()
            domains = [_stock_of(one) for one in self._connection.get().listAllDomains(0)]
            return HostStock(
                name=self._name,
                domains={one.name: one for one in domains if one.name.startswith(f"{self._prefix}-")},
                volumes=volumes,
                pool=str(self._volumes.directory),
                reservations=tuple(self._networks.list_reservations()),
                remnants=tuple(self._remnants()),
                reserves=bool(self._network) and self._networks.runs_dhcp(self._network),
                in_use=frozenset(path for one in domains for path in one.files),
                seeds=frozenset(name for name in volumes if self._is_seed(name)),
                logs=logs,
            )

    def _is_seed(self, name: str) -> bool:
        """An ISO image, and not one that was wiped or is gone by now."""
        if not name.startswith(f"{self._prefix}-") or not name.endswith(SEED_ENDING):
            return False
        try:
            return self._volumes.read_at(name, _ISO_MARK_AT, len(_ISO_MARK)) == _ISO_MARK
        except HostUnreachable:
            raise
        except (HostError, NotFound):
            return False

    def remove_volume(self, name: str) -> None:
        self._volumes.remove(name)

    def remove_log(self, name: str) -> None:
        self._logs.remove(name)

    def remove_reservation(self, reservation: Reservation) -> None:
        self._networks.remove_reservation(reservation)

    def remove_probe(self) -> None:
        with translated("cannot remove the guest that tries KVM"):
            remove_probe(self._connection, self._volumes, self._prefix)

    # ---- what libvirt keeps beside the disks -------------------------------------------------------------

    def remove_remnant(self, remnant: Remnant) -> None:
        path = Path(remnant.path)
        if not any(path.parent == directory for _, directory in self._directories()):
            raise HostError(f"{path} is not where libvirt keeps such files", "remove it by hand")
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"cannot remove {path}: {error.strerror}") from error

    def _remnants(self) -> Iterator[Remnant]:
        for kind, directory in self._directories():
            with contextlib.suppress(OSError):
                for path in sorted(directory.iterdir()):
                    subject = _subject(kind, path.name)
                    if subject and (kind is RemnantKind.TPM or subject.startswith(f"{self._prefix}-")):
                        yield Remnant(kind, subject, str(path))

    def _directories(self) -> list[tuple[RemnantKind, Path]]:
        """Of a libvirtd elsewhere, or in a room of its own, none."""
        if self._connection.uri == "qemu:///system":
            base, tpm = Path("/var/lib/libvirt/qemu"), Path("/var/lib/libvirt/swtpm")
        elif self._connection.uri == "qemu:///session":
            config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
            base = config / "libvirt" / "qemu"
            tpm = base / "swtpm"
        else:
            return []
        places = {RemnantKind.MEMORY: base / "save", RemnantKind.VARIABLES: base / "nvram", RemnantKind.TPM: tpm}
        return list(places.items())


def _subject(kind: RemnantKind, name: str) -> str:
    """Domain, or UUID of a TPM's; empty if the file is something else."""
    if kind is RemnantKind.TPM:
        return name
    ending = _VARIABLES if kind is RemnantKind.VARIABLES else _MEMORY
    return name.removesuffix(ending) if name.endswith(ending) else ""


def _stock_of(domain: Any) -> DomainStock:
    owner = find_owner(domain)
    files = sources_of(domain, beneath=True) | sources_of(domain, libvirt.VIR_DOMAIN_XML_INACTIVE, beneath=True)
    return DomainStock(
        name=domain.name(),
        uuid=domain.UUIDString(),
        installation=owner.installation if owner is not None else "",
        member=owner.member if owner is not None else "",
        incarnation=owner.incarnation if owner is not None else 0,
        files=frozenset(files - {""}),
    )
