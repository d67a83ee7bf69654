"""Storage pool and volume XML."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring


def render_pool(name: str, path: str) -> str:
    """A directory pool that every QEMU process may pass through but not list."""
    pool = Element("pool", type="dir")
    SubElement(pool, "name").text = name
    target = SubElement(pool, "target")
    SubElement(target, "path").text = path
    SubElement(SubElement(target, "permissions"), "mode").text = "0711"
    return _done(pool)


def render_volume(name: str, capacity: int, kind: str, mode: str = "0600") -> str:
    """A file volume of `capacity` bytes; `kind` is raw or qcow2."""
    volume, target = _volume(name, capacity, kind)
    SubElement(SubElement(target, "permissions"), "mode").text = mode
    if kind == "raw":
        SubElement(volume, "allocation").text = "0"
    return _done(volume)


def render_disk_volume(name: str, capacity: int) -> str:
    """A qcow2 volume of `capacity` bytes that holds nothing yet and stands alone."""
    volume, target = _volume(name, capacity, "qcow2")
    SubElement(target, "compat").text = "1.1"
    SubElement(SubElement(target, "permissions"), "mode").text = "0600"
    return _done(volume)


def render_overlay(name: str, capacity: int, base_path: str) -> str:
    """A qcow2 volume of `capacity` bytes over the qcow2 file at `base_path`."""
    volume, target = _volume(name, capacity, "qcow2")
    SubElement(SubElement(target, "permissions"), "mode").text = "0600"
    backing = SubElement(volume, "backingStore")
    SubElement(backing, "path").text = base_path
    SubElement(backing, "format", type="qcow2")
    return _done(volume)


def _volume(name: str, capacity: int, kind: str) -> tuple[Element, Element]:
    volume = Element("volume", type="file")
    SubElement(volume, "name").text = name
    SubElement(volume, "capacity", unit="bytes").text = str(capacity)
    target = SubElement(volume, "target")
    SubElement(target, "format", type=kind)
    return volume, target


def _done(root: Element) -> str:
    indent(root)
    return tostring(root, encoding="unicode")
