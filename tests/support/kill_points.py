"""Which calls change something, and so are points at which a controller is killed (`tests.support.crash`).

Both lists are derived: of the ports all methods that do not promise to change nothing, of libvirt all calls of the
drivers that are not known to change nothing. A new call is a kill point by itself, and has to be named here, where
`tests/unit/test_kill_points.py` looks: as one that has to have killed a controller, or with the reason why none of
the operations comes to it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from orchestrator.ports.disks import Disks
from orchestrator.ports.hypervisor import Hypervisor

DRIVERS = Path(inspect.getfile(Hypervisor)).parents[1] / "drivers" / "libvirt"
WRAPPED = (
    libvirt.virConnect,
    libvirt.virDomain,
    libvirt.virDomainSnapshot,
    libvirt.virStoragePool,
    libvirt.virStorageVol,
    libvirt.virStream,
    libvirt.virNetwork,
    libvirt.virNWFilter,
)

# Ports: what asks. (What an agent is asked to do leaves nothing on a host.)
ASKING = frozenset(
    {
        "observe",
        "survey",
        "is_fork",
        "list_goldens",
        "console_tail",
        "ask_agent",
        "describe_network",
        "subscribe",
        "close",
        "why_no_console_log",
    }
)
# libvirt: what asks, or changes the connection only.
READING = frozenset(
    {
        "DHCPLeases",
        "UUIDString",
        "XMLDesc",
        "blockInfo",
        "close",
        "domain",
        "domainEventRegisterAny",
        "download",
        "getAllDomainStats",
        "getCapabilities",
        "getDomainCapabilities",
        "getInfo",
        "getLibVersion",
        "getMemoryStats",
        "getVersion",
        "hasManagedSaveImage",
        "info",
        "infoFlags",
        "isActive",
        "isAlive",
        "isPersistent",
        "listAllDomains",
        "listAllNetworks",
        "listAllStoragePools",
        "listAllVolumes",
        "lookupByName",
        "maxMemory",
        "metadata",
        "name",
        "networkLookupByName",
        "newStream",
        "nwfilterLookupByName",
        "openConsole",
        "path",
        "recv",
        "refresh",  # libvirt looks at the directory again
        "registerCloseCallback",
        "setKeepAlive",
        "state",
        "storagePoolLookupByName",
        "storageVolLookupByName",
        "unregisterCloseCallback",
    }
)

# What has to have killed a controller at least once, whatever the machine's speed.
REACHED = {
    "host": {
        "ensure_image",
        "create_machine",
        "start_machine",
        "shut_down_machine",
        "hibernate_machine",
        "destroy_machine",
        "attach",
        "remove_local_storage",
        "mark_machine",
        "remove_seed",
        "take_golden",
        "fork_machine",
        "set_link",
        "remove_golden",
    },
    "libvirt": {
        "virConnect.storagePoolDefineXML",
        "virConnect.defineXML",
        "virConnect.restoreFlags",
        "virStoragePool.create",
        "virStoragePool.createXML",
        "virStorageVol.upload",
        "virStorageVol.delete",
        "virStorageVol.wipe",
        "virStream.send",
        "virStream.finish",
        "virDomain.create",
        "virDomain.destroy",
        "virDomain.undefineFlags",
        "virDomain.shutdown",
        "virDomain.managedSave",
        "virDomain.setMetadata",
        "virDomain.attachDeviceFlags",
        "virDomain.detachDeviceFlags",
        "virDomain.snapshotCreateXML",
        "virDomain.resume",
    },
    "balancer": {"converge"},
    "haproxy": {"check", "start", "reload", "add server", "set server", "del server", "shutdown sessions"},
    "ledger": {"keep", "forget"},
    "store": {"declare_set", "mark_deleting", "request", "write_fact"},
}
# What no operation of the test comes to. It is wired like the others.
ELSEWHERE = {
    "remove_image": "of a command that waits for no controller: understudy image remove",
    "remove_drive": "of a command that waits for no controller: understudy delete --delete-drives",
    "resume_machine": "only where a full disk has paused a machine",
    "managedSaveRemove": "only where saved memory cannot be read",
    "abort": "only where an upload fails",
    "abortJob": "only where a golden image takes too long",
    "blockResize": "drives that are made larger while a machine runs",
    "resize": "drives that are made larger while none runs",
    "undefine": "the probe guest of doctor, and a storage pool that is removed",
    "createXML": "virConnect: a body in network mode that has no filter yet",
    "updateDeviceFlags": "cards in network mode, and CD-ROMs of Windows",
    "update": "network mode",
    "nwfilterDefineXML": "network mode",
}
# Calls that take so long, on any machine, that a controller has to have been killed in the middle of each.
SLOW = {
    "host.ensure_image",
    "host.create_machine",
    "host.start_machine",
    "host.shut_down_machine",
    "host.hibernate_machine",
    "host.destroy_machine",
    "host.take_golden",
    "host.fork_machine",
    "libvirt.virDomain.create",
    "libvirt.virDomain.destroy",
    "libvirt.virDomain.managedSave",
    "libvirt.virDomain.snapshotCreateXML",
    "libvirt.virConnect.restoreFlags",
    "balancer.converge",
}


def changing(port: type[Any]) -> frozenset[str]:
    """Methods of a port that may change something."""
    methods = {name for name, _ in inspect.getmembers(port, inspect.isfunction) if not name.startswith("_")}
    return frozenset(methods - ASKING)


HOST_CALLS = changing(Hypervisor) | changing(Disks)


def calls_of_libvirt(folder: Path = DRIVERS) -> set[str]:
    """Names of libvirt's methods that are used below the folder. One that other objects have too is among them."""
    known = {name for kind in WRAPPED for name in vars(kind) if not name.startswith("_")}
    return set(_attributes(folder)) & known


def _attributes(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        yield from (node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
