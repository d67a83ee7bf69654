"""Whose domain is it? The owner tag in `<metadata>` says; nothing without ours is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.errors import Conflict
from orchestrator.render.domain import METADATA_NS


@dataclass(frozen=True)
class Owner:
    installation: str
    member: str
    incarnation: int


def find_owner(domain: Any) -> Owner | None:
    """The tag of a domain; None if it carries none."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_NS, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise
    tag = ElementTree.fromstring(text)  # noqa: S314 - libvirtd's own document
    incarnation = tag.get("incarnation", "0")
    return Owner(
        tag.get("installation", ""), tag.get("member", ""), int(incarnation) if incarnation.isdigit() else 0
    )


def check_owner(domain: Any, installation: str) -> Owner:
    """Raises Conflict if the domain is not of this installation."""
    owner = find_owner(domain)
    if owner is None or owner.installation != installation:
        raise Conflict(
            f"domain {domain.name()!r} exists and is not ours; it is left alone",
            "rename it, or set another 'prefix' in config.toml",
        )
    return owner
