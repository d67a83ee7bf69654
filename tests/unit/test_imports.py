"""Every module can be imported, also with the oldest packages that are allowed (`scripts/test-lowest`)."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import orchestrator

MODULES = sorted(one.name for one in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."))


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)
