"""The product's own libvirt network filter: what a guest may send is what its own card would."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from orchestrator.models.naming import OWN_FILTER

_MAC, _IP = "$MAC", "$IP"  # libvirt fills them in for each card


def render_filter() -> str:
    """XML. Filters of libvirt are many small commands of `ebtables`, and every machine waits for them: these are
    as few rules as say it, all in one chain."""
    root = Element("filter", name=OWN_FILTER, chain="root")
    sent = (
        ("ip", {"srcmacaddr": _MAC, "srcipaddr": _IP}),
        ("arp", {"srcmacaddr": _MAC, "arpsrcmacaddr": _MAC, "arpsrcipaddr": _IP}),
        ("ip", {"srcmacaddr": _MAC, **_DHCP}),
    )
    for protocol, attributes in sent:
        _rule(root, "accept", "out", protocol, attributes)
    _rule(root, "drop", "out", "mac", {})
    for protocol in ("ip", "arp"):
        _rule(root, "accept", "in", protocol, {})
    _rule(root, "drop", "in", "mac", {})
    indent(root)
    return tostring(root, encoding="unicode")


_UNSET = "0.0.0.0"  # noqa: S104 - to be compared with, not listened at
# Asking for an address, before there is one.
_DHCP = {
    "srcipaddr": _UNSET,
    "dstipaddr": "255.255.255.255",
    "protocol": "udp",
    "srcportstart": "68",
    "dstportstart": "67",
}


def _rule(root: Element, action: str, direction: str, protocol: str, attributes: dict[str, str]) -> None:
    """`direction` as the guest sees it; rules are looked at in the order in which they are added."""
    priority = str(100 + len(root))
    rule = SubElement(root, "rule", action=action, direction=direction, priority=priority)
    SubElement(rule, protocol, attributes)
