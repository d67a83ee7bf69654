"""Domain XML of a machine whose network card is not ready yet: without its filter, which takes a host a while to
set up, and with what the card is to get kept in the machine's own metadata.

Whoever looks at such a machine finds there what is left to do, whoever began it.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from orchestrator.models.machine import Nic
from orchestrator.render.document import CARD_NS, read_document, write_document

_CARD = f"{{{CARD_NS}}}card"


@dataclass(frozen=True)
class PendingCard:
    """What the card of a machine has to get. `filterref` is XML for libvirt; empty if it has no filter to get."""

    nic: Nic
    member: str
    filterref: str


def render_bare(document: str, nic: Nic, member: str) -> str:
    """`document`, a definition with one card on a network, without the card's filter."""
    root = read_document(document)
    interface = root.find("./devices/interface")
    metadata = root.find("metadata")
    assert interface is not None and metadata is not None
    kept = SubElement(metadata, _CARD, member=member, address=nic.address)
    filterref = interface.find("filterref")
    if filterref is not None:
        interface.remove(filterref)
        kept.append(filterref)
    return write_document(root)


def render_held(document: str, nic: Nic, member: str) -> str:
    """The same with its link down."""
    root = read_document(render_bare(document, nic, member))
    for interface in root.findall("./devices/interface"):
        _set_link(interface, up=False)
    return write_document(root)


def find_pending(document: str) -> PendingCard | None:
    """None if nothing was put off. `document`: as the machine runs."""
    root = read_document(document)
    kept, interface = root.find(f"./metadata/{_CARD}"), root.find("./devices/interface")
    if kept is None or interface is None:
        return None
    mac, source = interface.find("mac"), interface.find("source")
    assert mac is not None and source is not None
    filterref = kept.find("filterref")
    has_it = filterref is None or interface.find("filterref") is not None
    return PendingCard(
        Nic(mac.get("address", ""), kept.get("address", ""), network=source.get("network", "")),
        kept.get("member", ""),
        "" if has_it or filterref is None else tostring(filterref, encoding="unicode"),
    )


def render_card(document: str, up: bool | None = None, filterref: str = "") -> str | None:
    """The card of a machine that runs, as libvirt is to change it; None if libvirt knows of none. `up` None: its
    link stays as it is."""
    interface = read_document(document).find("./devices/interface")
    if interface is None:
        return None
    if filterref:
        interface.append(read_document(filterref))
    if up is not None:
        _set_link(interface, up)
    return tostring(interface, encoding="unicode")


def drop_pending(root: Element) -> None:
    """Of a definition: what starts from it has all its card needs."""
    metadata = root.find("metadata")
    for kept in metadata.findall(_CARD) if metadata is not None else []:
        metadata.remove(kept)  # type: ignore[union-attr]


def _set_link(interface: Element, up: bool) -> None:
    for link in interface.findall("link"):
        interface.remove(link)
    SubElement(interface, "link", state="up" if up else "down")
