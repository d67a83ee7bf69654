"""Recipes: `images/NAME/build` makes a disk from distribution packages, without downloading an image."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.config.resources import resource
from orchestrator.config.scratch import scratch
from orchestrator.errors import ImageBuildFailed, NotFound
from orchestrator.imaging.files import OnProgress

_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Recipe:
    """`tools` are (command, Debian package) pairs that the build host must have."""

    name: str
    directory: Path
    description: str
    tools: tuple[tuple[str, str], ...]


def list_recipes() -> list[Recipe]:
    root = resource("images")
    return [load_recipe(file.parent.name) for file in sorted(root.glob("*/recipe.yaml"))]


def load_recipe(name: str) -> Recipe:
    """Raises NotFound naming the recipes there are."""
    root = resource("images")
    file = root / name / "recipe.yaml"
    if Path(name).name != name or not file.is_file():
        known = ", ".join(sorted(one.parent.name for one in root.glob("*/recipe.yaml")))
        raise NotFound(
            f"there is no image recipe {name!r}", f"recipes: {known}; or: understudy image add {name} FILE"
        )
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    tools = tuple((tool["command"], tool["package"]) for tool in document.get("tools", []))
    return Recipe(name, file.parent, document["description"], tools)


def missing_packages(recipe: Recipe) -> list[str]:
    """Debian packages whose commands the build host lacks."""
    path = os.environ.get("PATH", "") + _SBIN
    lacking = {package for command, package in recipe.tools if not _has(command, path)}
    return sorted(lacking)


def _has(command: str, path: str) -> bool:
    return Path(command).exists() if command.startswith("/") else shutil.which(command, path=path) is not None


def build_image(recipe: Recipe, output: Path, work: Path, on_progress: OnProgress) -> None:
    """Run the recipe; `output` is written whole or not at all. Raises ImageBuildFailed with its last words."""
    lacking = missing_packages(recipe)
    if lacking:
        raise ImageBuildFailed(
            f"building {recipe.name} needs tools that are not installed: {', '.join(lacking)}",
            f"apt-get install --no-install-recommends {' '.join(lacking)}",
        )
    with scratch(work, "build-") as directory:
        environment = {**os.environ, "TMPDIR": str(directory), "PATH": os.environ.get("PATH", "") + _SBIN}
        errors = directory / "errors"
        with (
            errors.open("w", encoding="utf-8") as stderr,
            subprocess.Popen(
                ["bash", str(recipe.directory / "build"), str(output)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                start_new_session=True,
            ) as process,
        ):
            _follow(process, on_progress)
        if process.returncode != 0:
            tail = "\n".join(errors.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ImageBuildFailed(f"recipe {recipe.name} failed with status {process.returncode}:\n{tail}")


def _follow(process: subprocess.Popen[str], on_progress: OnProgress) -> None:
    """Lines `progress PERCENT WORDS`. The recipe is its own session: whatever it started ends with it."""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.strip().split(" ", 2)
            if words[0] == "progress" and len(words) == 3 and words[1].isdigit():
                on_progress(float(words[1]), words[2])
        process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
