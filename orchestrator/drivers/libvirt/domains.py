"""One domain, asked and changed while others may start, stop or undefine it. Raises libvirtError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.power_button import await_startup

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
# A version of libvirt that does not know this flag removes a TPM's state without being told.
_UNDEFINE_TPM = getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0)


def find_domain(connection: Any, name: str) -> Any | None:
    """None if there is none of that name."""
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def unless_active(domain: Any, start: Callable[[], object]) -> None:
    """Somebody else's start is as good."""
    try:
        start()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def is_active(domain: Any) -> bool:
    """A machine that was undefined while it ran is gone once it is off."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise


def is_running(domain: Any) -> bool:
    return bool(domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)


def force_off(domain: Any) -> None:
    """Off, however it was."""
    try:
        await_startup(domain)
        domain.destroy()
    except libvirt.libvirtError as error:
        gone = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN)
        if error.get_error_code() not in gone:
            raise


def undefine(connection: Any, domain: Any) -> None:
    """With its saved memory, and the state of its firmware and TPM. Raises what libvirt says if it stays."""
    for flags in (_UNDEFINE | _UNDEFINE_TPM, _UNDEFINE):
        with contextlib.suppress(libvirt.libvirtError):
            domain.undefineFlags(flags)
        if find_domain(connection, domain.name()) is None:
            return
    domain.undefine()
