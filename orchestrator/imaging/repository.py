"""The images of an installation: their records, the copies of these beside the store, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.config.ledger import Ledger
from orchestrator.config.paths import StatePaths
from orchestrator.config.rooms import hold_rooms
from orchestrator.errors import Conflict, HostError
from orchestrator.imaging.files import explained
from orchestrator.models.members import Image
from orchestrator.store import Store


class ImageHost(Protocol):
    """A host that may have a copy of an image."""

    def remove_image(self, digest: str) -> None:
        """Absent is success. Raises HostError."""


@dataclass(frozen=True)
class Removal:
    """An image that was removed. `left_on`: host -> why its copy is there still."""

    image: Image
    left_on: Mapping[str, str]


@dataclass(frozen=True)
class Repository:
    """Where an image's file is named by its content, which several versions may share."""

    store: Store
    ledger: Ledger
    paths: StatePaths

    def file(self, digest: str) -> Path:
        return self.paths.images / f"{digest}.qcow2"

    def find_kept(self, name: str, digest: str) -> Image | None:
        """The version of that name and content; None also if its file is gone: then it is put back."""
        return self._find_version(name, digest) if self.file(digest).exists() else None

    def keep(self, file: Path, digest: str, name: str, made: Callable[[int], Image]) -> Image:
        """`file` becomes the repository's, and `made` with its number is recorded unless there is such a version.

        `file` is in the repository's directory. Raises OSError, StoreError.
        """
        with hold_rooms(self.paths):  # an audit takes the file for left over until it is recorded
            file.replace(self.file(digest))
            given = self.ledger.given_versions().get(name, 0)
            image = self._find_version(name, digest) or self.store.add_image(name, made, given)
            self._keep_records()
            return image

    def keep_records(self) -> None:
        """Beside the store there is what it says now. Raises StoreError."""
        with hold_rooms(self.paths):
            self._keep_records()

    def _keep_records(self) -> None:
        self.ledger.keep_images(self.store.list_images(), self.store.given_versions())

    def _find_version(self, name: str, digest: str) -> Image | None:
        versions = self.store.list_images()
        return next((image for image in versions if image.name == name and image.digest == digest), None)

    # ---- removing ----------------------------------------------------------------------------------------

    def remove(self, image: Image, hosts: Mapping[str, ImageHost]) -> Removal:
        """Its file and its copies on hosts go when no other version has the same content.

        Raises Conflict while somebody uses it. A host that fails keeps its copy, and holds nothing up.
        """
        with hold_rooms(self.paths):
            self.store.remove_image(image)
            self.ledger.forget_image(image)
        left_on = {}
        for name, host in hosts.items():
            if self._is_needed(image.digest):
                break
            try:
                host.remove_image(image.digest)
            except HostError as error:
                left_on[name] = error.message
        with explained(f"removing {image.ref}"), hold_rooms(self.paths):  # it may have been added again meanwhile
            if not self._is_needed(image.digest):
                self.file(image.digest).unlink(missing_ok=True)
        return Removal(image, left_on)

    def prune(self, hosts: Mapping[str, ImageHost]) -> Iterator[Removal]:
        """Remove every version that nobody uses, except the newest of each name; each as it is done."""
        images = self.store.list_images()
        newest = {image.name: image.version for image in images}  # sorted by version
        for image in images:
            if image.version == newest[image.name]:
                continue
            try:
                removal = self.remove(image, hosts)
            except Conflict:
                continue
            yield removal

    def _is_needed(self, digest: str) -> bool:
        return any(image.digest == digest for image in self.store.list_images())


def refuse_left(removals: list[Removal]) -> None:
    """Raises HostError naming the hosts that keep copies of what was removed."""
    left: dict[tuple[str, str], list[str]] = {}
    for removal in removals:
        for host, reason in removal.left_on.items():
            left.setdefault((host, reason), []).append(removal.image.ref)
    if left:
        words = "; ".join(f"{', '.join(refs)} still on host {host}: {why}" for (host, why), refs in left.items())
        raise HostError(words, "once the host answers, remove what is left there: understudy audit --fix")
