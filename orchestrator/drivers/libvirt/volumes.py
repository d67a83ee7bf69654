"""The storage pool of one host and the volumes in it. Filled by stream: a local and a remote host are one path."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.errors import from_libvirt, translated
from orchestrator.drivers.qcow2 import FRONT, write_owner
from orchestrator.errors import Conflict, HostError
from orchestrator.models.naming import RAW_ENDING
from orchestrator.render.volumes import render_disk_volume, render_overlay, render_pool, render_volume

CONSOLES = "consoles"
"""The directory within that of the pool where consoles are logged. libvirt lists it as one volume, and does not
look into it."""
_CHUNK = 256 * 1024
_FILLING = 5.0  # seconds that libvirt may still fill a volume for somebody who is dead
_LOOK = 0.05


class Volumes:
    """Makes, fills, reads and removes volumes by name."""

    def __init__(self, connection: LibvirtConnection, pool: str, path: Path) -> None:
        self._connection = connection
        self._pool_name = pool
        self._path = path
        self._checked_on: Any = None  # the connection on which the pool was found to be ours

    def ensure_pool(self) -> Any:
        """The running pool, defined if need be. Raises Conflict if its name belongs to another directory."""
        connection = self._connection.get()
        with translated(f"cannot use storage pool {self._pool_name!r} on {self._connection.uri}"):
            try:
                pool = connection.storagePoolLookupByName(self._pool_name)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                    raise
                pool = self._define(connection)
            if connection is not self._checked_on:
                self._check_path(pool)
                self._checked_on = connection
            if not pool.isActive():
                pool.create(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
            return pool

    def _check_path(self, pool: Any) -> None:
        if f"<path>{self._path}</path>" not in pool.XMLDesc():
            raise Conflict(
                f"storage pool {self._pool_name!r} on {self._connection.uri} is not at {self._path}",
                "another installation uses this name: set another 'prefix' in config.toml",
            )

    def _define(self, connection: Any) -> Any:
        try:
            return connection.storagePoolDefineXML(render_pool(self._pool_name, str(self._path)))
        except libvirt.libvirtError:
            # Another worker defined it between the look and the definition.
            return connection.storagePoolLookupByName(self._pool_name)

    def remove_pool(self) -> None:
        """Undefine the pool and remove its directory if it is empty. Absent is success."""
        with translated(f"cannot remove storage pool {self._pool_name!r}"):
            try:
                pool = self._connection.get().storagePoolLookupByName(self._pool_name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
                    return
                raise
            if f"<path>{self._path}</path>" not in pool.XMLDesc():
                return
            if pool.isActive():
                pool.destroy()
            with contextlib.suppress(libvirt.libvirtError):
                pool.delete()
            pool.undefine()

    def find(self, name: str) -> Any | None:
        pool = self.ensure_pool()
        with translated(f"cannot look up volume {name!r}"):
            try:
                return pool.storageVolLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
                    return None
                raise

    def is_there(self, name: str) -> bool:
        """Whether there is a file behind the volume."""
        return self.find_state(name) is not None

    def find_state(self, name: str) -> str | None:
        """Another one whenever the file behind the volume was written to, renamed or replaced: its size and its
        times, that of its inode's last change too, which nobody can set.

        None where no file is behind it: libvirt goes on listing one that was deleted behind it.
        """
        volume = self.find(name)
        if volume is None:
            return None
        try:
            document = ElementTree.fromstring(volume.XMLDesc())  # noqa: S314 - libvirt wrote it
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
                self.refresh()
                return None
            raise from_libvirt(error, f"cannot look up volume {name!r}") from error
        places = ("physical", "target/timestamps/mtime", "target/timestamps/ctime")
        return " ".join(document.findtext(place, "?") for place in places)

    def sha256_of(self, name: str) -> str:
        """Of the file as it is. Raises HostError if there is no such volume."""
        path = self.path_of(name)
        if is_here(self._connection.uri):
            with contextlib.suppress(OSError), Path(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        with translated(f"cannot read volume {name!r}"):
            stream = self._connection.get().newStream(0)
            self.ensure_pool().storageVolLookupByName(name).download(stream, 0, 0, 0)
            while chunk := stream.recv(_CHUNK):
                digest.update(chunk)
            stream.finish()
        return digest.hexdigest()

    def list_names(self) -> list[str]:
        with translated("cannot list volumes"):
            return sorted(self._all())

    def _all(self) -> dict[str, Any]:
        """By name. Raises libvirtError."""
        volumes = {str(volume.name()): volume for volume in self.ensure_pool().listAllVolumes()}
        volumes.pop(CONSOLES, None)
        return volumes

    @property
    def directory(self) -> Path:
        """Of the pool, on its host."""
        return self._path

    def list_paths(self) -> dict[str, str]:
        """Name -> path of every volume, as the directory is now; none where there is no pool yet."""
        with translated("cannot list volumes"):
            try:
                self._connection.get().storagePoolLookupByName(self._pool_name)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                    raise
                return {}
            self.refresh()
            return {name: str(volume.path()) for name, volume in self._all().items()}

    def list_sizes(self) -> dict[str, int]:
        """Name -> bytes that a guest can have in it; of a raw file its length, whatever it says of itself. Nothing
        is made for it: without a pool there are none."""
        with translated("cannot list volumes"):
            pools = self._connection.get().listAllStoragePools(0)
            if all(pool.name() != self._pool_name for pool in pools):
                return {}
            return {
                name: _length(volume) if name.endswith(RAW_ENDING) else int(volume.info()[1])
                for name, volume in self._all().items()
            }

    def path_of(self, name: str) -> str:
        """Raises HostError if there is no such volume."""
        volume = self.find(name)
        if volume is None:
            raise HostError(f"volume {name!r} is missing on {self._connection.uri}")
        return str(volume.path())

    def make_overlay(self, name: str, base: str, size: int | None) -> str:
        """A fresh qcow2 overlay over volume `base`; its path. `size` None: the base's virtual size, in bytes."""
        self.remove(name)
        volume = self.find(base)
        if volume is None:
            self.refresh()
            volume = self.find(base)
        if volume is None:
            raise HostError(f"image volume {base!r} is missing on {self._connection.uri}")
        with translated(f"cannot make overlay {name!r}"):
            capacity = size if size is not None else int(volume.info()[1])
            made = self.ensure_pool().createXML(render_overlay(name, capacity, volume.path()))
            return str(made.path())

    def make_disk(self, name: str, size: int, owner: str) -> str:
        """An empty, sparse qcow2 volume of that many bytes that says in its header whose it is; its path.

        One that is there is Conflict, and stays as it is.
        """
        with translated(f"cannot make volume {name!r}"):
            volume = self.ensure_pool().createXML(render_disk_volume(name, size))
            try:
                self._send(volume, write_owner(self._receive(volume, 0, FRONT), owner))
            except BaseException:
                self.remove(name)
                raise
            return str(volume.path())

    def make_filled(self, name: str, content: bytes, mode: str = "0600") -> str:
        """A fresh raw volume with that content; its path."""
        self.remove(name)
        with translated(f"cannot write volume {name!r}"):
            volume = self.ensure_pool().createXML(render_volume(name, len(content), "raw", mode))
            if content:
                self._send(volume, content)
            return str(volume.path())

    def upload_file(self, name: str, file: Path, sha256: str, mode: str) -> None:
        """A fresh volume with the file's content, hashed on its way. Raises HostError if the hash differs."""
        if not file.exists():
            raise HostError(f"image file {file} is missing", "add the image again")
        self.remove(name)
        size = file.stat().st_size
        digest = hashlib.sha256()
        with translated(f"cannot upload {file} to {self._connection.uri}"), file.open("rb") as source:
            volume = self.ensure_pool().createXML(render_volume(name, size, "raw", mode))
            stream = self._connection.get().newStream(0)
            volume.upload(stream, 0, size, 0)
            try:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    _send_all(stream, chunk)
                stream.finish()
            except BaseException:
                with contextlib.suppress(libvirt.libvirtError):
                    stream.abort()
                self.remove(name)
                raise
        if digest.hexdigest() != sha256:
            self.remove(name)
            raise HostError(f"{file} is not what was imported: its sha256 is {digest.hexdigest()}, not {sha256}")

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """That part of a volume's file, as far as there is one."""
        volume = self.find(name)
        if volume is None:
            return b""
        with translated(f"cannot read volume {name!r}"):
            try:
                there = min(size, _length(volume) - offset)
                return self._receive(volume, offset, there) if there > 0 else b""
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                    raise
                return b""  # deleted behind libvirt, which goes on listing it

    def _receive(self, volume: Any, offset: int, size: int) -> bytes:
        def begin() -> Any:
            begun = self._connection.get().newStream(0)
            volume.download(begun, offset, size, 0)
            return begun

        stream, part = _once_filled(begin), bytearray()
        while chunk := stream.recv(_CHUNK):
            part += chunk
        stream.finish()
        return bytes(part)

    def remove(self, name: str) -> None:
        """Absent is success."""
        volume = self.find(name)
        if volume is None:
            return
        with translated(f"cannot remove volume {name!r}"):
            try:
                _once_filled(lambda: volume.delete(0))
            except libvirt.libvirtError as error:
                # Also success: the file behind it is gone already.
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL and Path(volume.path()).exists():
                    raise
                self.refresh()

    def wipe(self, volume: Any) -> None:
        """Zeros over all that the volume holds. Raises libvirtError."""
        # libvirt overwrites as many bytes as were allocated when it looked last: perhaps before it was filled.
        volume.info()
        volume.wipe(0)

    def refresh(self) -> None:
        """Let libvirt see what appeared in the directory. Busy volumes make it refuse; the next time will do."""
        with contextlib.suppress(libvirt.libvirtError):
            self.ensure_pool().refresh()

    def _send(self, volume: Any, content: bytes) -> None:
        stream = self._connection.get().newStream(0)
        volume.upload(stream, 0, len(content), 0)
        _send_all(stream, content)
        stream.finish()


def is_here(uri: str) -> bool:
    """Whether the files of that libvirt are this machine's."""
    parts = urlsplit(uri)
    return parts.scheme in ("qemu", "qemu+unix") and not parts.netloc


def _length(volume: Any) -> int:
    """Of its file, in bytes: what its first bytes say of it has no part in that. Raises libvirtError."""
    return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


def _send_all(stream: Any, content: bytes) -> None:
    view = memoryview(content)
    while view:
        sent = stream.send(bytes(view[:_CHUNK]))
        view = view[sent:]


def _once_filled(call: Callable[[], Any]) -> Any:
    """Also of a volume that libvirt still makes or fills: what a process asked for goes on when the process was
    killed. Raises libvirtError."""
    end = time.monotonic() + _FILLING
    while True:
        try:
            return call()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or time.monotonic() >= end:
                raise
        time.sleep(_LOOK)
