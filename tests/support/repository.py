"""An image repository in a state directory of its own, for tests that need no machines."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.config.ledger import Ledger
from orchestrator.config.paths import StatePaths
from orchestrator.drivers.keys import SystemClock
from orchestrator.imaging.importing import import_image
from orchestrator.imaging.repository import Repository
from orchestrator.models.members import Image
from orchestrator.store import open_store


def open_repository(root: Path) -> Repository:
    """The caller closes its store."""
    paths = StatePaths(root)
    paths.ensure()
    store = open_store(f"sqlite:///{paths.database}", SystemClock().now)
    return Repository(store, Ledger(paths.declarations, paths.image_records), paths)


def quiet(_percent: float, _words: str) -> None:
    """Hears how far a stage is."""


def add(repository: Repository, file: Path, name: str = "web") -> Image:
    return import_image(repository, name, file, quiet)


def leftovers(repository: Repository) -> list[Path]:
    return [*repository.paths.work.iterdir(), *repository.paths.images.iterdir()]


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def make_qcow2(directory: Path, size: str = "16M") -> Path:
    """An empty one; the same size makes the same content."""
    file = directory / f"{size}.qcow2"
    qemu_img("create", "-f", "qcow2", file, size)
    return file
