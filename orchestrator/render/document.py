"""Domain XML read, changed and written again: with the prefixes of its namespaces as everybody writes them."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, indent, register_namespace, tostring

from orchestrator.render.domain import QEMU_NS
from orchestrator.render.owner import METADATA_NS

CARD_NS = "https://understudy.dev/xmlns/card/1"


def read_document(document: str) -> Element:
    """libvirtd's own, or ours. Raises ElementTree.ParseError."""
    register_namespace("qemu", QEMU_NS)
    register_namespace("understudy", METADATA_NS)
    register_namespace("card", CARD_NS)
    return ElementTree.fromstring(document)  # noqa: S314 - see above


def write_document(root: Element) -> str:
    indent(root)
    return tostring(root, encoding="unicode")
