"""What `apply` refuses as a whole, by the command line, against libvirt's driver for tests: nothing is booted."""

from __future__ import annotations

import subprocess
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


def test_a_set_is_not_renamed_in_its_file_from_wherever_that_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = site.write("web.yaml", empty_set("web"))
    site.run("apply", file)
    site.write("web.yaml", empty_set("shop"))
    monkeypatch.chdir(site.root)
    for words in (("apply", file), ("apply", "web.yaml"), ("apply", "state/../web.yaml", "--dry-run")):
        said = site.run(*words, expect=2)
        assert f"{file} declares 'shop', which is new, and no longer 'web', which is still there" in said
        assert "(understudy delete web, then apply again; or put 'web' back into the file" in said
    assert site.sets() == ["web"]
    site.run("delete", "web")
    site.run("apply", file)
    assert site.sets() == ["shop"]


def test_a_second_set_comes_from_a_copy_of_the_file_and_a_file_may_be_moved(site: Site) -> None:
    site.run("apply", site.write("web.yaml", empty_set("web")))
    site.run("apply", site.write("shop.yaml", empty_set("shop")))
    site.run("apply", site.write("elsewhere/web.yaml", empty_set("web")))
    site.run("apply", site.write("web.yaml", empty_set("api")))
    assert site.sets() == ["api", "shop", "web"]


def test_what_is_read_from_standard_input_is_no_file_that_could_rename_a_set(site: Site) -> None:
    for name in ("web", "shop"):
        with Path(site.write(f"{name}.yaml", empty_set(name))).open(encoding="utf-8") as file:
            subprocess.run(site.command("apply", "/dev/stdin"), stdin=file, check=True, capture_output=True)
        told = empty_set(f"{name}-too").encode()
        subprocess.run(site.command("apply", "/dev/stdin"), input=told, check=True, capture_output=True)
    assert site.sets() == ["shop", "shop-too", "web", "web-too"]
