"""Fixtures shared by tests with real neighbours."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.support.guest_images import guest_image
from tests.support.installation import Installation, installation


def pytest_configure() -> None:
    """A run that is told to end removes what it has made, as one that is interrupted does."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that a second one does not cut short the removal
    raise KeyboardInterrupt(f"signal {number}")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not named after the test: a state directory's path may not be longer than that of a socket."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="session")
def micro_image() -> Path:
    """The micro guest's disk image."""
    return guest_image("micro")


@pytest.fixture
def empty() -> Iterator[Installation]:
    """A fresh installation without images."""
    assert shutil.which("curl"), "the tests need curl"
    with installation() as made:
        yield made


@pytest.fixture
def site(empty: Installation, micro_image: Path) -> Installation:
    """A fresh installation with the micro image."""
    empty.run("image", "add", "micro", str(micro_image))
    return empty
