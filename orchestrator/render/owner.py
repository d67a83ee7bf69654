"""The owner tag as an element of domain metadata, and read back."""

from __future__ import annotations

import ipaddress
import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from orchestrator.models.members import Role
from orchestrator.models.ownership import OwnerTag, TagState

METADATA_NS = "https://understudy.dev/xmlns/owner/1"
# As the store holds them; a domain of ours can be changed by whoever may talk to libvirt.
_SHAPES = {
    "set": r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?",
    "member": r"[a-z0-9-]{1,64}",
    "incarnation": r"[1-9][0-9]{0,8}",
    "model": r"[0-9a-f]{16}",
    "image": r"[a-z0-9._-]{0,64}(:[0-9]{1,9})?",
    "digest": r"[0-9a-f]{64}",
    "created": r"[0-9]{1,11}(\.[0-9]{1,17})?",
}


def render_owner(tag: OwnerTag, namespace: str = METADATA_NS) -> Element:
    """`namespace` empty: as libvirt takes an element to which it gives one itself."""
    owner = Element(f"{{{namespace}}}owner" if namespace else "owner")
    owner.set("installation", tag.installation)
    owner.set("set", tag.set_name)
    owner.set("member", tag.member)
    owner.set("incarnation", str(tag.incarnation))
    owner.set("model", tag.model)
    owner.set("image", tag.image)
    owner.set("digest", tag.digest)
    owner.set("role", tag.role.value)
    owner.set("state", tag.state.value)
    owner.set("address", tag.address)
    owner.set("created", repr(tag.created_at))
    if tag.forked:
        owner.set("forked", "yes")
    return owner


def parse_owner(text: str) -> OwnerTag | None:
    """None if it lacks what a record is made of, as a tag of an older version does, or is not as we write it."""
    found = ElementTree.fromstring(text)  # noqa: S314 - libvirtd's own document
    words = dict(found.items())
    has_shape = all(re.fullmatch(shape, words.get(name, "!"), re.ASCII) for name, shape in _SHAPES.items())
    if not has_shape or not words["member"].startswith(f"{words['set']}-"):
        return None
    try:
        address = str(ipaddress.IPv4Address(words["address"]))
        return OwnerTag(
            installation=words["installation"],
            set_name=words["set"],
            member=words["member"],
            incarnation=int(words["incarnation"]),
            model=words["model"],
            image=words["image"],
            digest=words["digest"],
            role=Role(words["role"]),
            state=TagState(words["state"]),
            address=address,
            created_at=float(words["created"]),
            forked=words.get("forked") == "yes",
        )
    except (KeyError, ValueError):
        return None
