"""The files of images in a host's storage pool, which overlays are made on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from pathlib import Path

from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.models.members import Image
from orchestrator.models.naming import image_volume


class BaseImages:
    """Thread-safe. A volume beside each says that it was verified; without it the file is brought again."""

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
            if self._volumes.find(f"{name}.verified") is None or not self._volumes.is_there(name):
                self._upload(name, image, file)

    def remove(self, digest: str, others_files: Callable[[], Container[str]]) -> None:
        """Nothing that is among `others_files`. Raises HostError, libvirtError."""
        name = image_volume(self._prefix, digest)
        volume = self._volumes.find(name)
        if volume is not None and volume.path() in others_files():
            return
        self._volumes.remove(f"{name}.verified")
        self._volumes.remove(name)

    def _upload(self, name: str, image: Image, file: Path) -> None:
        self._volumes.upload_file(name, file, image.digest, mode="0444" if self._is_privileged else "0600")
        if not self._is_privileged:
            # An ordinary user's libvirtd cannot fill a file it may not write: the mode follows the content.
            Path(self._volumes.path_of(name)).chmod(0o444)
        self._volumes.refresh()
        self._volumes.make_filled(f"{name}.verified", b"")
