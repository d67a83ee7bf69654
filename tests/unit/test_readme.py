"""What the README and the pages show is what the product takes: files are loaded as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.config.scaleset_file import load_scale_sets
from orchestrator.config.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WINDOWS = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def declarations() -> list[str]:
    """The set of the tour, the reference, and the sets of the Windows page."""
    (tour,) = re.findall(r"<<'END'\n(kind: ScaleSet\n.*?)^END$", README, re.MULTILINE | re.DOTALL)
    shown = [block for block in blocks(README, "yaml") + blocks(WINDOWS, "yaml") if "\nimage: " in f"\n{block}"]
    return [tour, *shown]


@pytest.mark.parametrize("text", declarations())
def test_a_scale_set_file_that_is_shown_is_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    for name in ("db-password", "admin.txt", "secrets/admin.txt"):
        secret = tmp_path / name
        secret.parent.mkdir(exist_ok=True)
        secret.write_text("a word of its own\n", encoding="utf-8")
        secret.chmod(0o600)
    file = tmp_path / "web.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_scale_sets(file)


def test_all_settings_are_shown_with_their_defaults(tmp_path: Path) -> None:
    (text,) = [block for block in blocks(README, "toml") if "[limits]" in block]
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    assert load_settings(file) == Settings()
