"""One host through libvirt: domains, volumes, networks, events."""

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.host import LibvirtHost

__all__ = ["LibvirtConnection", "LibvirtHost"]
