"""What `apply` refuses as a whole, by the command line, against libvirt's driver for tests: nothing is booted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.store import Store, open_store
from tests.support.paper_site import PaperSite


def empty_set(name: str) -> str:
    return f"name: {name}\nimage: base\ninstances: 0\n"


@dataclass(frozen=True)
class Site(PaperSite):
    """With an image in it."""

    def write(self, name: str, *documents: str) -> str:
        file = self.root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("---\n".join(documents), encoding="utf-8")
        return str(file)

    def open(self) -> Store:
        return open_store(f"sqlite:///{self.store}", time.time)

    def sets(self) -> list[str]:
        """Names of the sets that there are."""
        store = self.open()
        try:
            return [one.name for one in store.snapshot().sets]
        finally:
            store.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.prepare("apply", "base")
    return made


def test_a_file_with_a_set_that_is_being_deleted_changes_none_of_its_sets(site: Site) -> None:
    site.run("apply", site.write("one.yaml", empty_set("api")))
    store = site.open()
    store.mark_deleting("api")
    store.close()
    both = site.write("both.yaml", empty_set("web"), empty_set("api"))
    for words in (("apply", both), ("apply", both, "--dry-run")):
        said = site.run(*words, expect=2)
        assert "set 'api' is being deleted" in said
        assert "wait for the deletion, then apply again" in said
    assert site.sets() == ["api"]
