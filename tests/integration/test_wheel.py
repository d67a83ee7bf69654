"""The installed wheel works away from a checkout: templates and recipes travel inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with only the wheel's content in it."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(directory.glob("*.whl"))
    target = directory / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "UNDERSTUDY_STATE_DIR": str(installed / "state")}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=installed, check=True
    )
    return done.stdout


def test_the_command_runs_from_the_wheel(installed: Path) -> None:
    assert "standby" in run(installed, "-m", "orchestrator", "schema")
    where = run(installed, "-c", "import orchestrator; print(orchestrator.__file__)")
    assert str(installed) in where


def test_templates_and_recipes_are_found(installed: Path) -> None:
    code = (
        "from orchestrator.config.resources import template, resource\n"
        "from orchestrator.imaging.building import list_recipes\n"
        "assert 'stats socket' in template('haproxy.cfg.j2')\n"
        "assert resource('templates/starter.yaml')\n"
        "print(*[recipe.name for recipe in list_recipes()])\n"
        "assert all((recipe.directory / 'build').is_file() for recipe in list_recipes())\n"
    )
    assert run(installed, "-c", code).split() == ["debian-12", "micro"]
