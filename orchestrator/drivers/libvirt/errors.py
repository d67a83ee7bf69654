"""libvirt's error codes -> our errors, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from orchestrator.errors import Conflict, HostError, HostFull, HostUnreachable, NotFound, UnderstudyError

# Codes not listed become HostError with libvirt's own words.
ERRORS: dict[int, type[UnderstudyError]] = {
    libvirt.VIR_ERR_NO_CONNECT: HostUnreachable,
    libvirt.VIR_ERR_INVALID_CONN: HostUnreachable,
    libvirt.VIR_ERR_RPC: HostUnreachable,
    libvirt.VIR_ERR_AUTH_FAILED: HostUnreachable,
    libvirt.VIR_ERR_AUTH_CANCELLED: HostUnreachable,
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: NotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: NotFound,
    libvirt.VIR_ERR_NO_NETWORK: NotFound,
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: Conflict,
    libvirt.VIR_ERR_DOM_EXIST: Conflict,
    libvirt.VIR_ERR_NO_MEMORY: HostFull,
}

# A connection that broke under a call: it says nothing about the machine the call was for.
_TRANSPORT = (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
_BROKEN = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR)
# libvirtd does not reach the daemon that writes consoles: of the connection to libvirtd that says nothing.
_NO_LOG_DAEMON = "virtlogd"
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "Cannot allocate memory")


def from_libvirt(error: libvirt.libvirtError, what: str) -> UnderstudyError:
    """`what` is the beginning of the sentence: `cannot start 'web-3' on qemu:///system`."""
    words = error.get_error_message() or str(error)
    if _NO_LOG_DAEMON in words:
        return HostError(f"{what}: {words}", "start virtlogd on the host: systemctl start virtlogd.socket")
    if "Read-only file system" in words:
        return HostError(f"{what}: {words}", "mount that file system for writing, then apply again")
    if error.get_error_domain() in _TRANSPORT and error.get_error_code() in _BROKEN:
        return HostUnreachable(f"{what}: {words}")
    if any(words_of_fullness in words for words_of_fullness in _NO_SPACE):
        return HostFull(f"{what}: {words}", "free space on the host, then apply again")
    kind = ERRORS.get(error.get_error_code(), HostError)
    return kind(f"{what}: {words}")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises our error in place of libvirt's."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise from_libvirt(error, what) from error
