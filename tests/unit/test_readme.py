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


FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


def named_tests() -> list[tuple[str, str]]:
    """(files, pattern of a name) of every test in the last column of a table: `X` is the file that the page begins
    with, `unit` any of the core's, and dots stand for the rest of a name."""
    letters = dict(re.findall(r"\b([A-Z]) = `(tests/[^`]+)`", FAULTS))
    found, files = [], ""
    for line in (one for one in FAULTS.splitlines() if one.startswith("|")):
        words = r"(?<!`)\b([A-Z]|unit|the same)\b(?!`)|`(tests/[^` ]+\.py)`|`(\w+_\w*(?:\.\.\.\w*)*)`"
        for place, file, name in re.findall(words, line.rsplit("|", 2)[-2]):
            if place in letters or place == "unit" or file:
                files = file or letters.get(place, "tests/unit/*.py")
            elif name and not name.endswith(".py"):
                found.append((files, name.replace("...", r"\w*")))
    return found


def test_every_test_that_the_page_of_faults_names_is_there() -> None:
    named = named_tests()
    assert len(named) > 80
    for files, pattern in named:
        text = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob(files))
        assert re.search(rf"def test_\w*{pattern}", text), (files, pattern)
