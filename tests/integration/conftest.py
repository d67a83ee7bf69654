"""What several tests of images begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.imaging.repository import Repository
from tests.support.repository import open_repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = open_repository(tmp_path / "state")
    yield made
    made.store.close()
