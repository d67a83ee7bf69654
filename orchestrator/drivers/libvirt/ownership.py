"""Whose domain is it? The owner tag in `<metadata>` says; nothing without ours is touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.errors import Conflict
from orchestrator.models.ownership import OwnerTag
from orchestrator.render.owner import METADATA_NS, parse_owner, render_owner


@dataclass(frozen=True)
class HostIdentity:
    """What the product calls a host, and whose machines it looks for on it."""

    name: str
    zone: str
    prefix: str
    installation: str


@dataclass(frozen=True)
class Owner:
    installation: str
    member: str
    incarnation: int
    forked: bool = False


def find_owner_text(domain: Any) -> str | None:
    """The tag of a domain, as XML; None if it carries none."""
    try:
        return str(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_NS, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def find_owner(domain: Any) -> Owner | None:
    """What every look needs of the tag; None if there is none."""
    return _read_owner(find_owner_text(domain))


def _read_owner(text: str | None) -> Owner | None:
    if text is None:
        return None
    tag = ElementTree.fromstring(text)  # noqa: S314 - libvirtd's own document
    incarnation = tag.get("incarnation", "0")
    return Owner(
        tag.get("installation", ""),
        tag.get("member", ""),
        int(incarnation) if incarnation.isdigit() else 0,
        tag.get("forked") == "yes",
    )


def write_tag(domain: Any, tag: OwnerTag) -> None:
    """In place of the one it carries; a version of the image that is not given stays what it was, and so does that
    it was forked. Raises Conflict if the domain is not of the tag's installation.

    As few calls as can be: a client waits for a machine that is claimed."""
    text = find_owner_text(domain)
    _check(domain, _read_owner(text), tag.installation)
    before = parse_owner(text) if text is not None else None
    if before is not None:
        tag = replace(tag, image=tag.image or before.image, forked=before.forked)
    if tag == before:
        return
    document = ElementTree.tostring(render_owner(tag, namespace=""), encoding="unicode")
    try:
        _set_metadata(domain, document, libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        # It is off, or has no definition.
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        _set_metadata(domain, document, flags)


def _set_metadata(domain: Any, document: str, flags: int) -> None:
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, document, "understudy", METADATA_NS, flags)


def check_owner(domain: Any, installation: str) -> Owner:
    """Raises Conflict if the domain is not of this installation."""
    return _check(domain, find_owner(domain), installation)


def _check(domain: Any, owner: Owner | None, installation: str) -> Owner:
    if owner is None or owner.installation != installation:
        raise Conflict(
            f"domain {domain.name()!r} exists and is not ours; it is left alone",
            "rename it, or set another 'prefix' in config.toml",
        )
    return owner
