"""Domain XML around a golden image: how it is taken, and how a fork goes on from it."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from orchestrator.errors import GoldenUnusable
from orchestrator.render.card import drop_pending
from orchestrator.render.document import read_document, write_document
from orchestrator.render.domain import QEMU_CAPABILITIES, QEMU_COMMANDLINE

# What the memory image was made with, and a fork must have as well.
_SAME = ("memory", "vcpu")


def render_snapshot(disk: str, overlay: str, memory: str) -> str:
    """Snapshot XML: memory into a file; what the disk of that target holds stays as it is, beneath an overlay."""
    root = Element("domainsnapshot")
    SubElement(root, "memory", snapshot="external", file=memory)
    element = SubElement(SubElement(root, "disks"), "disk", name=disk, snapshot="external", type="file")
    SubElement(element, "driver", type="qcow2")
    SubElement(element, "source", file=overlay)
    return write_document(root)


def render_frozen(document: str, path: str) -> str:
    """A machine's definition, in which the file at `path` beneath its disk keeps its owner when it starts."""
    root = _parsed(document)
    for source in root.findall("./devices/disk//backingStore/source"):
        if source.get("file") == path and source.find("seclabel") is None:
            SubElement(source, "seclabel", model="dac", relabel="no")
    return write_document(root)


def render_fork(saved: str, own: str) -> str:
    """XML under which the memory of one machine goes on as another.

    `saved`: of the memory image: its devices stay at their places, as the guest knows them. `own`: of the other
    machine, as it would be defined; from it comes all that no two may share. Raises GoldenUnusable.
    """
    root, mine = _parsed(saved), _parsed(own)
    _check_same(root, mine)
    for tag in ("name", "uuid", "genid", "metadata", QEMU_COMMANDLINE, QEMU_CAPABILITIES):
        _take_over(root, mine, tag)
    _take_disk(_only(root, "./devices/disk"), _only(mine, "./devices/disk"))
    for path in ("serial", "console"):
        _take_over(_only(root, f"./devices/{path}"), _only(mine, f"./devices/{path}"), "log")
    _take_over(_only(root, "./devices/channel"), _only(mine, "./devices/channel"), "source")
    if mine.find("./devices/interface") is not None:
        for tag in ("mac", "source", "target", "filterref", "link"):
            _take_over(_only(root, "./devices/interface"), _only(mine, "./devices/interface"), tag)
    return write_document(root)


def render_kept(document: str) -> str:
    """The definition of a fork from which it boots from now on: `document` is that under which it runs."""
    root = _parsed(document)
    for interface in root.findall("./devices/interface"):
        for link in interface.findall("link"):
            interface.remove(link)
    drop_pending(root)
    return write_document(root)


def _check_same(root: Element, mine: Element) -> None:
    if root.get("type") != mine.get("type"):
        raise GoldenUnusable(
            f"the memory image is of a {root.get('type')} machine, not of a {mine.get('type')} one"
        )
    for tag in _SAME:
        theirs, ours = root.findtext(tag), mine.findtext(tag)
        if theirs != ours:
            raise GoldenUnusable(f"the memory image is of a machine with {tag} {theirs}, not {ours}")


def _take_disk(disk: Element, mine: Element) -> None:
    """`mine` holds the chain of its own overlay; target and address stay."""
    for tag in ("source", "backingStore"):
        _take_over(disk, mine, tag)


def _take_over(root: Element, mine: Element, tag: str) -> None:
    """The element of that name of `mine`, or none, at the place where `root` has its own."""
    old, new = root.find(tag), mine.find(tag)
    place = list(root).index(old) if old is not None else len(root)
    if old is not None:
        root.remove(old)
    if new is not None:
        root.insert(place, new)


def _only(root: Element, path: str) -> Element:
    found = root.findall(path)
    if len(found) != 1:
        raise GoldenUnusable(f"the memory image is of a machine with {len(found)} of {path.rpartition('/')[2]!r}")
    return found[0]


def _parsed(document: str) -> Element:
    try:
        return read_document(document)
    except ElementTree.ParseError as error:
        raise GoldenUnusable(f"the domain XML in the memory image is damaged: {error}") from error
