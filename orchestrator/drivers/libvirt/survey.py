"""What is on the host of an installation whose store is lost: machines with their tags, volumes, others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.ownership import HostIdentity, find_owner, find_owner_text
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.models.adoption import FoundMachine, HostSurvey
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import MachineSighting
from orchestrator.render.owner import parse_owner


def survey_host(
    connection: Any, volumes: Volumes, identity: HostIdentity, seen: Mapping[str, MachineSighting]
) -> HostSurvey:
    """`seen`: our machines, by domain. Nothing is changed."""
    machines, foreign, others = [], [], set()
    for domain in connection.listAllDomains(0):
        name = domain.name()
        disks = _volumes_of(domain, volumes.directory)
        sighting = seen.get(name)
        if sighting is None:
            if name.startswith(domain_name(identity.prefix, "")) and not _is_ours(domain, identity):
                foreign.append(name)
            others |= disks
            continue
        text = find_owner_text(domain)
        tag = parse_owner(text) if text is not None else None
        memory = domain.maxMemory() * 1024
        where = identity.name, identity.zone
        machines.append(FoundMachine(name, sighting.member, *where, sighting.power, tag, frozenset(disks), memory))
    return HostSurvey(
        identity.name,
        tuple(sorted(machines, key=lambda one: one.domain)),
        volumes.list_sizes(),
        tuple(sorted(foreign)),
        frozenset(others),
    )


def _is_ours(domain: Any, identity: HostIdentity) -> bool:
    """A machine that was made since the look."""
    owner = find_owner(domain)
    is_ours = owner is not None and owner.installation == identity.installation
    return is_ours and owner is not None and domain.name() == domain_name(identity.prefix, owner.member)


def _volumes_of(domain: Any, pool: Path) -> set[str]:
    """Volumes of the pool that it has, now or from its next start on."""
    found = set()
    for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
        root = ElementTree.fromstring(domain.XMLDesc(flags))  # noqa: S314 - libvirtd's own document
        paths = [Path(source.get("file", "")) for source in root.findall("./devices/disk/source")]
        found |= {path.name for path in paths if path.parent == pool}
    return found
