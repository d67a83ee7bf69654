"""The files of images in a host's storage pool, which overlays are made on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from pathlib import Path

from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import HostError
from orchestrator.models.members import Image
from orchestrator.models.naming import image_volume

_MARK_SIZE = 256  # bytes, at the most


class BaseImages:
    """Thread-safe. A volume beside each, its mark, says in which state the file was when it was verified.

    Without the mark the file is brought again; in another state it is hashed anew before anything is made on it.
    """

    def __init__(self, volumes: Volumes, prefix: str, is_privileged: bool) -> None:
        self._volumes = volumes
        self._prefix = prefix
        self._is_privileged = is_privileged
        self._distributing = threading.Lock()

    def ensure(self, image: Image, file: Path) -> None:
        """Raises HostError."""
        name = image_volume(self._prefix, image.digest)
        # One upload for all machines that wait for it.
        with self._distributing:
            mark, state = self._volumes.read_at(f"{name}.verified", 0, _MARK_SIZE), self._volumes.find_state(name)
            if state is None or (not mark and self._volumes.find(f"{name}.verified") is None):
                self._upload(name, image, file)
            elif mark.decode("ascii", "replace") != state:
                self._verify(name, image)

    def remove(self, digest: str, others_files: Callable[[], Container[str]]) -> None:
        """Nothing that is among `others_files`. Raises HostError, libvirtError."""
        name = image_volume(self._prefix, digest)
        volume = self._volumes.find(name)
        if volume is not None and volume.path() in others_files():
            return
        self._volumes.remove(f"{name}.verified")
        self._volumes.remove(name)

    def _upload(self, name: str, image: Image, file: Path) -> None:
        self._volumes.remove(f"{name}.verified")  # of the file that was lost: this one may be cut short, too
        self._volumes.upload_file(name, file, image.digest, mode="0444" if self._is_privileged else "0600")
        if not self._is_privileged:
            # An ordinary user's libvirtd cannot fill a file it may not write: the mode follows the content.
            Path(self._volumes.path_of(name)).chmod(0o444)
        self._volumes.refresh()
        self._mark(name)

    def _verify(self, name: str, image: Image) -> None:
        """Machines that run on it are left alone, whatever it is now."""
        digest = self._volumes.sha256_of(name)
        if digest != image.digest:
            path = self._volumes.path_of(name)
            raise HostError(
                f"base disk {path} is not what was imported as {image.ref}: it was changed on the host, its "
                f"sha256 is {digest}, not {image.digest}",
                f"move it away: it is brought again. Then reimage the machines that were made on it: {path}",
            )
        self._mark(name)

    def _mark(self, name: str) -> None:
        self._volumes.make_filled(f"{name}.verified", (self._volumes.find_state(name) or "").encode("ascii"))
