"""Network filters (nwfilter) of one host, by name."""

from __future__ import annotations

import contextlib

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.errors import translated
from orchestrator.errors import NotFound
from orchestrator.models.naming import OWN_FILTER
from orchestrator.render.filter import render_filter

_FIX = "apt-get install libvirt-daemon-config-nwfilter, or set network.filter in config.toml"
_FIX_OWN = 'install the nwfilter driver of libvirt, or set network.filter = "" in config.toml'
_ABSENT = (libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_ERR_NO_SUPPORT)


class Filters:
    def __init__(self, connection: LibvirtConnection) -> None:
        self._connection = connection

    def ensure(self, name: str) -> None:
        """The product's own is defined where it is missing. Raises NotFound if libvirt does not know another."""
        with translated(f"cannot use network filter {name!r} on {self._connection.uri}"):
            if name == OWN_FILTER and not self._is_known(name):
                # Somebody else may do the same just now.
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.get().nwfilterDefineXML(render_filter())
            if not self._is_known(name):
                raise NotFound(
                    f"{self._connection.uri} has no network filter {name!r}: guests could take others' addresses",
                    _FIX_OWN if name == OWN_FILTER else _FIX,
                )

    def _is_known(self, name: str) -> bool:
        try:
            self._connection.get().nwfilterLookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _ABSENT:
                raise
            return False
        return True
