"""What is bare: a machine as libvirt starts it by itself, described without the product's shortcut to its start.

Bounds are held against that. The same machine with the product's own description stands beside it, so that what
the product adds after a start is not hidden by what it saves in it.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from orchestrator.render.document import read_document, write_document
from orchestrator.render.domain import QEMU_CAPABILITIES
from tests.support.benchmarks.growth import virsh


@dataclass(frozen=True)
class Bare:
    """Seconds of a machine as anybody describes it, and as the product does."""

    plain: float
    own: float


def as_anybody_writes_it(document: str) -> str:
    """Domain XML without what makes libvirt ask less. Raises ValueError if there was nothing of the kind."""
    root = read_document(document)
    take_shortcut(root)
    return write_document(root)


def take_shortcut(root: Element) -> list[Element]:
    """Out of a domain; ValueError as above."""
    found = root.findall(QEMU_CAPABILITIES)
    if not found:
        raise ValueError("this machine starts as any other does")
    for element in found:
        root.remove(element)
    return found


def time_bare(domain: str, seconds: Callable[[], float], saved: bool) -> Bare:
    """`seconds` starts the machine, and leaves it as it was: off, or `saved`."""
    with described_plainly(domain, saved):
        plain = seconds()
    return Bare(plain, seconds())


@contextlib.contextmanager
def described_plainly(domain: str, saved: bool) -> Iterator[None]:
    """The definition of a machine that is off, or that under which its memory was saved, for a while."""
    root = described(domain, saved)
    shortcut = take_shortcut(root)
    describe(domain, root, saved)
    try:
        yield
    finally:
        # Not the document from before: libvirt takes none for a memory that was saved since under another.
        root = described(domain, saved)
        root.extend(shortcut)
        describe(domain, root, saved)


def described(domain: str, saved: bool) -> Element:
    show = ("managedsave-dumpxml",) if saved else ("dumpxml", "--inactive")
    return read_document(virsh(*show, "--security-info", domain))


def describe(domain: str, root: Element, saved: bool) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as file:
        file.write(write_document(root))
        file.flush()
        virsh(*(("managedsave-define", domain) if saved else ("define",)), file.name)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median ratio of those of the same round."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
