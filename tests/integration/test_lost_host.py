"""A host that is not in config.toml any more, through the command line, against libvirt's driver for tests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.models.members import Role
from orchestrator.models.steps import Admit
from orchestrator.store import open_store
from orchestrator.store.records import Recorder
from tests.support.paper_site import PaperSite


@pytest.fixture
def site(tmp_path: Path) -> PaperSite:
    """With a set whose only instance is on a host that is gone."""
    made = PaperSite(tmp_path)
    made.prepare("lost-host", "base")
    (tmp_path / "web.yaml").write_text("name: web\nimage: base\ninstances: 0\n", encoding="utf-8")
    made.run("apply", str(tmp_path / "web.yaml"))
    store = open_store(f"sqlite:///{made.store}", time.time)
    recorder = Recorder(store, lambda: "4tz9k", lambda: ["127.77.0.2"])
    assert recorder.perform(Admit("web", Role.INSTANCE, "gone", "b", "a test"))
    store.close()
    return made


def test_commands_that_need_the_host_name_it_with_its_fix(site: PaperSite) -> None:
    for words in (("console", "web/4tz9k"), ("console", "web/4tz9k", "--log")):
        said = site.run(*words, expect=2)
        assert "host 'gone' is not configured any more" in said
        assert "add it to config.toml again" in said


def test_of_a_host_elsewhere_the_log_of_a_console_is_said_not_to_be_kept(site: PaperSite) -> None:
    elsewhere = '[[hosts]]\nname = "gone"\nzone = "b"\nuri = "qemu+ssh://root@b.invalid/system"\n'
    site.config.write_text(site.config.read_text(encoding="utf-8") + elsewhere, encoding="utf-8")
    said = site.run("console", "web/4tz9k", "--log", expect=2)
    assert "is not kept on host 'gone': qemu+ssh://root@b.invalid/system is another machine" in said
    assert (
        "understudy console web/4tz9k; or on that host: virsh console understudy-lost-host-test-web-4tz9k" in said
    )


def test_commands_that_do_not_need_the_host_go_on_without_it(site: PaperSite) -> None:
    assert "gone/b" in site.run("status")
    assert "nothing to adopt" in site.run("adopt")
    assert "base:1 is ready" in site.run("image", "add", "base", str(site.root / "disk.raw"))
    site.run("cost")
    site.run("ssh", "web/4tz9k", "--", "true", expect=255)  # nobody listens there


def test_the_audit_names_the_member_and_what_it_advises_works(site: PaperSite) -> None:
    said = site.run("audit", expect=1)
    assert "its host gone is not in config.toml" in said
    assert "understudy remove web/web-4tz9k" in said
    assert "0 in service" in site.run("remove", "web/web-4tz9k")
    assert "4tz9k" not in site.run("status")
    assert "what it has of web-4tz9k is left there" in site.run("events", "web")
    assert "4tz9k" not in site.run("audit", expect=4)  # libvirt's driver for tests cannot be counted


def test_a_set_with_machines_on_it_can_be_deleted(site: PaperSite) -> None:
    assert "web: deleted" in site.run("delete", "web")


def test_of_a_host_that_is_only_silent_the_audit_says_that_it_was_not_judged(site: PaperSite) -> None:
    silent = '[[hosts]]\nname = "gone"\nzone = "b"\nuri = "qemu+unix:///system?socket=/nowhere"\n'
    site.config.write_text(site.config.read_text(encoding="utf-8") + silent, encoding="utf-8")
    assert "nothing was found on the hosts that answer" in site.run("audit", expect=4)
    assert '"clean": false' in site.run("audit", "--json", expect=4)


def test_an_image_is_removed_though_a_host_is_silent_and_the_host_is_named(site: PaperSite) -> None:
    disk = site.root / "disk.raw"
    for mark in (b"one", b"two", b"three"):
        with disk.open("r+b") as raw:
            raw.seek(4096)
            raw.write(mark)
        assert "is ready" in site.run("image", "add", "web", str(disk))
    silent = '[[hosts]]\nname = "b"\nzone = "b"\nuri = "qemu+unix:///system?socket=/nowhere"\n'
    site.config.write_text(site.config.read_text(encoding="utf-8") + silent, encoding="utf-8")
    said = site.run("image", "prune", expect=1)
    assert "web:1 is removed\nweb:2 is removed\n" in said
    assert "web:1, web:2 still on host b: " in said
    assert "understudy audit --fix" in said
    assert "web:3 still on host b: " in site.run("image", "remove", "web:3", expect=1)
    assert "there is no image 'web'" in site.run("image", "remove", "web", expect=2)
    assert "web:4 is ready" in site.run("image", "add", "web", str(disk))
