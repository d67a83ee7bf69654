"""Golden images of one host: taken of a machine that goes on, found again, thrown away.

Taking is libvirt's external snapshot of memory and disk. The frozen overlay has two names: that which its machine
gave it, and that of the golden image. So neither needs the other to stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.disks import sources_of
from orchestrator.drivers.libvirt.golden_files import (
    Golden,
    GoldenFiles,
    GoldenMark,
    check_file,
    mark_file,
    read_mark,
    remove_parts,
    size_on_disk,
    write_mark,
)
from orchestrator.drivers.libvirt.ownership import HostIdentity
from orchestrator.drivers.libvirt.save_image import read_save_image
from orchestrator.drivers.libvirt.snapshot_watch import SnapshotWatch
from orchestrator.drivers.libvirt.volumes import Volumes, is_here
from orchestrator.errors import Conflict, GoldenUnusable
from orchestrator.models.golden import GoldenImage
from orchestrator.models.naming import grown_volume, overlay_volume
from orchestrator.render.fork import render_frozen, render_snapshot
from orchestrator.render.owner import METADATA_NS, parse_owner

_SNAPSHOT = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
)
_DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_MARGIN = 64 * 2**20  # bytes of the file system that taking and forking leave free
_FAILURES = 3  # forks in a row that do not go on, after which an image is given up


class Goldens:
    """`identity` says whose machines and files are looked at; `free` is the percentage of the file system that
    taking one leaves free."""

    def __init__(
        self, connection: LibvirtConnection, volumes: Volumes, identity: HostIdentity, free: int = 0
    ) -> None:
        self._free = free
        self._connection = connection
        self._volumes = volumes
        self._identity = identity
        self._files = GoldenFiles(volumes.directory, identity.prefix)
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._complete: dict[str, Golden] = {}
        self._remnants: set[str] = set()
        self._read_on: Any = None  # the connection on which they were read
        self._forking: Counter[str] = Counter()
        self._failures: Counter[Path] = Counter()

    # ---- looking -----------------------------------------------------------------------------------------

    def models(self) -> frozenset[str]:
        """Those with a complete image that was taken under this very libvirt and QEMU."""
        return frozenset(self._all())

    def remnants(self) -> frozenset[str]:
        """Others, of which there were parts when this process first looked, and nobody has removed or completed
        them since."""
        self._all()
        with self._lock:
            return frozenset(self._remnants)

    def list_all(self) -> list[GoldenImage]:
        """Those with a complete image, by model, as its mark and its files tell."""
        marks = ((one, read_mark(one)) for _, one in sorted(self._all().items()))
        return [
            GoldenImage(
                one.model,
                mark.base,
                mark.source,
                size_on_disk(one.disk),
                size_on_disk(one.memory),
                mark.created_at,
            )
            for one, mark in marks
            if mark is not None
        ]

    def _all(self) -> dict[str, Golden]:
        connection = self._connection.get()
        with self._lock:
            if self._read_on is not connection:
                self._complete = {} if self.why_none() else self._read()
                self._remnants = set() if self.why_none() else self._files.models() - self._complete.keys()
                self._read_on = connection
            return dict(self._complete)

    def _read(self) -> dict[str, Golden]:
        marks = [(one, read_mark(one)) for one in self._files.list_all()]
        writer = self._writer() if any(mark is not None for _, mark in marks) else ""
        return {one.model: one for one, mark in marks if mark is not None and mark.writer == writer}

    def _writer(self) -> str:
        """What a memory image depends on beside the machine."""
        connection = self._connection.get()
        processor = ElementTree.fromstring(connection.getCapabilities()).find("./host/cpu")  # noqa: S314
        parts = ElementTree.tostring(processor) if processor is not None else b""
        digest = hashlib.sha256(parts).hexdigest()[:16]
        return f"libvirt {connection.getLibVersion()}, QEMU {connection.getVersion()}, processor {digest}"

    def why_none(self) -> str:
        """Why this host can have none; empty if it can."""
        if not is_here(self._connection.uri):
            return f"{self._connection.uri} is not on this machine, where its files could be linked and copied"
        directory = self._files.directory
        if directory.is_dir() and not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return f"this user may not write to {directory}"
        return ""

    @contextlib.contextmanager
    def found(self, model: str) -> Iterator[Golden]:
        """Checked, and not removed meanwhile. Raises GoldenUnusable; one that is damaged is thrown away."""
        with self._lock:
            self._forking[model] += 1
        try:
            golden = self._all().get(model)
            if golden is None:
                raise GoldenUnusable(self.why_none() or f"there is no golden image of model {model}")
            self._check(golden)
            yield golden
        finally:
            with self._lock:
                self._forking[model] -= 1

    def _check(self, golden: Golden, thoroughly: bool = False) -> None:
        try:
            mark = read_mark(golden)
            if mark is None:
                raise GoldenUnusable(f"the golden image of model {golden.model} is not complete")
            check_file(golden.disk, mark.disk, thoroughly)
            check_file(golden.memory, mark.memory, thoroughly)
        except GoldenUnusable:
            self._drop(golden)
            raise

    def check_space(self, size: int, keep_free: int = 0) -> None:
        """For a file of that many bytes, of which `keep_free` percent of the file system are left. Raises
        GoldenUnusable."""
        room = os.statvfs(self._files.directory)
        free, kept = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize * keep_free // 100
        if free < size + max(kept, _MARGIN):
            left = f" with {keep_free}% of the file system left free (limits.golden_free)" if keep_free else ""
            raise GoldenUnusable(
                f"{self._files.directory} has {free // 2**20} MiB free, "
                f"a memory image needs {size // 2**20} MiB{left}"
            )

    def note_success(self, golden: Golden) -> None:
        self._failures.pop(golden.disk, None)

    def note_failure(self, golden: Golden) -> None:
        """A fork did not go on from it: what is damaged is given up, or fails for the third time in a row."""
        self._failures[golden.disk] += 1
        if self._failures[golden.disk] >= _FAILURES:
            self._drop(golden)
            return
        with contextlib.suppress(GoldenUnusable):
            self._check(golden, thoroughly=True)

    # ---- taking ------------------------------------------------------------------------------------------

    def take(self, domain: Any, incarnation: int, model: str, watch: SnapshotWatch) -> None:
        with self._taking:
            if model in self._all():
                return
            golden = self._find_cut_short(domain, incarnation, model)
            try:
                if golden is None:
                    golden = self._take_anew(domain, incarnation, model, watch)
                self._keep_definition(domain, incarnation)
                self._finish(domain, golden)
            except BaseException:
                # Its machine goes on over its own name of the frozen overlay, or over that as it was.
                self._clear(model)
                self._remove_unused_overlay(domain, incarnation)
                raise
            finally:
                self._volumes.refresh()
            with self._lock:
                self._complete[model] = golden
                self._remnants.discard(model)

    def _find_cut_short(self, domain: Any, incarnation: int, model: str) -> Golden | None:
        """One that libvirt took of this machine to its end, and whoever had asked for it was gone by then."""
        own = self._files.directory / overlay_volume(domain.name(), incarnation)
        if self.why_none() or not domain.isActive() or sources_of(domain) != {self._top(domain, incarnation)}:
            return None
        with contextlib.suppress(FileNotFoundError):
            for one in self._files.list_of(model):
                if read_mark(one) is None and one.disk.samefile(own) and one.memory.exists():
                    return one
        return None

    def _top(self, domain: Any, incarnation: int) -> str:
        """Path of what a machine is written over once its overlay is frozen. libvirt sees to that last."""
        return str(self._files.directory / grown_volume(domain.name(), incarnation))

    def _take_anew(self, domain: Any, incarnation: int, model: str, watch: SnapshotWatch) -> Golden:
        target = self._check_source(domain, incarnation)
        self._clear(model)
        self.check_space(int(domain.info()[1]) * 1024, self._free)
        golden = self._files.next_of(model)
        with watch:
            self._freeze(domain, incarnation, target, golden)
        return golden

    def _check_source(self, domain: Any, incarnation: int) -> str:
        """Target of its disk. Raises GoldenUnusable if no image can be taken of this machine."""
        why = self.why_none() or self._why_not(domain, incarnation)
        if why:
            raise GoldenUnusable(f"no golden image can be taken of {domain.name()!r}: {why}")
        root = _live(domain)
        target = root.find("./devices/disk/target")
        return target.get("dev", "") if target is not None else ""

    def _why_not(self, domain: Any, incarnation: int) -> str:
        if not domain.isActive() or domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
            return "it does not run"
        root = _live(domain)
        own = self._files.directory / overlay_volume(domain.name(), incarnation)
        paths = [source.get("file", "") for source in root.findall("./devices/disk/source")]
        if paths == [self._top(domain, incarnation)]:
            return "one was taken of it before"
        if paths != [str(own)]:
            return f"it has disks beside its own: {', '.join(Path(one).name for one in paths if one != str(own))}"
        if len(root.findall("./devices/disk//backingStore/source")) != 1:
            return "it is written over a golden image itself"
        if root.find("./os/loader") is not None:
            return "its firmware keeps variables of its own"
        if not own.is_file():
            return f"{own} is not on this machine"
        return ""

    def _freeze(self, domain: Any, incarnation: int, target: str, golden: Golden) -> None:
        own = self._files.directory / overlay_volume(domain.name(), incarnation)
        os.link(own, golden.disk)
        top = self._volumes.make_overlay(grown_volume(domain.name(), incarnation), own.name, None)
        domain.snapshotCreateXML(render_snapshot(target, top, str(golden.memory)), _SNAPSHOT)

    def _keep_definition(self, domain: Any, incarnation: int) -> None:
        own = self._files.directory / overlay_volume(domain.name(), incarnation)
        self._connection.get().defineXML(render_frozen(domain.XMLDesc(_DEFINITION), str(own)))

    def _finish(self, domain: Any, golden: Golden) -> None:
        read_save_image(golden.memory)
        # While its machine runs, the frozen disk has the group of QEMU, which must read it and nobody else may.
        for path, group, mode in (
            (golden.disk, golden.disk.stat().st_gid, 0o440),
            (golden.memory, os.getegid(), 0o400),
        ):
            os.chown(path, os.geteuid(), group)
            path.chmod(mode)
        mark = GoldenMark(
            source=domain.name(),
            base=_base_of(domain),
            created_at=time.time(),
            writer=self._writer(),
            disk=mark_file(golden.disk),
            memory=mark_file(golden.memory),
        )
        write_mark(golden, mark)

    def _remove_unused_overlay(self, domain: Any, incarnation: int) -> None:
        name = grown_volume(domain.name(), incarnation)
        path = str(self._files.directory / name)
        with contextlib.suppress(libvirt.libvirtError):
            if path not in sources_of(domain) | sources_of(domain, libvirt.VIR_DOMAIN_XML_INACTIVE):
                self._volumes.remove(name)

    # ---- throwing away -----------------------------------------------------------------------------------

    def remove(self, model: str) -> None:
        with self._taking:
            users = self._users([str(one.disk) for one in self._files.list_of(model)])
            with self._lock:
                is_forking = self._forking[model] > 0
            if users or is_forking:
                who = f"{users[0]!r} is written over it" if users else "a machine is being forked from it"
                raise Conflict(f"the golden image of model {model} on {self._identity.name} is in use: {who}")
            self._clear(model)
            self._forget(model)
            self._volumes.refresh()

    def _clear(self, model: str) -> None:
        """Whatever there is of it, but frozen overlays over which machines are written."""
        if self.why_none():
            return
        for one in self._files.list_of(model):
            remove_parts(one, keep_disk=bool(self._users([str(one.disk)])))

    def _drop(self, golden: Golden) -> None:
        """One that is no longer to be used."""
        self._forget(golden.model)
        remove_parts(golden, keep_disk=bool(self._users([str(golden.disk)])))
        self._volumes.refresh()

    def _forget(self, model: str) -> None:
        with self._lock:
            self._complete.pop(model, None)
            self._remnants.discard(model)

    def _users(self, paths: list[str]) -> list[str]:
        """Machines that are written over one of those files, now or from their next start on."""
        return [
            domain.name()
            for domain in self._connection.get().listAllDomains(0)
            for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)
            if not sources_of(domain, flags, beneath=True).isdisjoint(paths)
        ]


def _live(domain: Any) -> ElementTree.Element:
    return ElementTree.fromstring(domain.XMLDesc(0))  # noqa: S314 - libvirtd's own document


def _base_of(domain: Any) -> str:
    """Digest of the image beneath."""
    owner = _live(domain).find(f"./metadata/{{{METADATA_NS}}}*")
    tag = parse_owner(ElementTree.tostring(owner, encoding="unicode")) if owner is not None else None
    return tag.digest if tag is not None else ""
