"""A process that takes a golden image, or forks or creates a machine, and may be killed at it.

Arguments: prefix, installation, root, digest of the image, then `take DOMAIN`, `fork SUFFIX` or `create SUFFIX`,
and if need be URI and network. Prints `now` when it begins and `done` when it has ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.drivers.libvirt import LibvirtConnection, LibvirtHost
from orchestrator.drivers.libvirt.ownership import HostIdentity
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.models.members import Image
from tests.support.fork_lab import MODEL, describe_machine


def main(prefix: str, installation: str, root: str, digest: str, *words: str) -> None:
    what, of, uri, network = words if len(words) == 4 else (*words, "qemu:///system", "")
    connection = LibvirtConnection(uri)
    volumes = Volumes(connection, prefix, Path(root) / "volumes")
    host = LibvirtHost(HostIdentity("local", "a", prefix, installation), connection, volumes, lambda: "tcg")
    image = Image("micro", 1, digest, 1, 0, 0.0, "a test")
    blueprint = describe_machine(prefix, installation, image, of, network=network)
    host.observe()
    print("now", flush=True)
    if what == "take":
        host.take_golden(of, 1, MODEL)
    elif what == "create":
        host.create_machine(blueprint, None)
    else:
        host.fork_machine(blueprint)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
