"""Guest images for tests, built by the product's own recipes and kept by the recipe's content."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from orchestrator.imaging.building import build_image, load_recipe

CACHE = Path(os.environ.get("UNDERSTUDY_TEST_CACHE", "/var/tmp/understudy-test-cache"))


def guest_image(name: str) -> Path:
    """The image a recipe makes; built if no image of this very recipe is in the cache."""
    recipe = load_recipe(name)
    digest = hashlib.sha256()
    for directory in (recipe.directory, recipe.directory.parent / "lib"):
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(directory)}:{file.stat().st_mode & 0o111}\n".encode())
            digest.update(file.read_bytes())
    CACHE.mkdir(parents=True, exist_ok=True)
    built = CACHE / f"{name}-{digest.hexdigest()[:16]}.qcow2"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of the tests want it too
        if not built.exists():
            for stale in CACHE.glob(f"{name}-*.qcow2"):
                stale.unlink()
            build_image(recipe, built, CACHE, lambda percent, words: None)
    return built
