"""A damaged, lost or old store through the command line, against libvirt's driver for tests: nothing is booted."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.support.paper_site import PaperSite

SET = "name: web\nimage: base\ninstances: 0\nsetup:\n  user_data: |\n    #!/bin/sh\n    echo a-secret\n"


@dataclass(frozen=True)
class Site(PaperSite):
    """With an image and an empty set in it."""

    @property
    def file(self) -> str:
        return str(self.root / "web.yaml")

    def lose_the_store(self) -> None:
        for file in self.store.parent.glob("store.sqlite*"):
            file.unlink()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.prepare("recovery", "base")
    Path(made.file).write_text(SET, encoding="utf-8")
    made.run("apply", made.file)
    return made


ACTING = (
    ("apply", "FILE"),
    ("apply", "FILE", "--dry-run"),
    ("scale", "web", "1"),
    ("pool", "web", "--max-ready", "2"),
    ("delete", "web"),
    ("reimage", "web/4tz9k"),
    ("remove", "web/4tz9k"),
    ("image", "add", "other", "DISK"),
    ("image", "remove", "base:1"),
    ("image", "prune"),
    ("backup", "never.tar"),
)


def test_every_command_that_acts_refuses_a_store_that_was_lost_until_adopt(site: Site) -> None:
    images = site.run("image", "list")
    site.lose_the_store()
    for words in ACTING:
        given = [{"FILE": site.file, "DISK": str(site.root / "disk.raw")}.get(word, word) for word in words]
        said = site.run(*given, expect=2)
        assert "its store was lost" in said
        assert "understudy adopt" in said
    assert "its store was lost" in site.run("status")
    assert "0 instances declared (from the copy)" in site.run("adopt", "--dry-run")
    assert "its store was lost" in site.run("scale", "web", "0", expect=2)
    site.run("adopt")
    assert site.run("image", "list") == images
    assert "nothing to do" in site.run("apply", site.file, "--dry-run")
    assert "nothing to adopt" in site.run("adopt")


def test_an_image_whose_file_is_lost_too_is_named_and_comes_back_by_adding_it_again(site: Site) -> None:
    (image,) = (site.state / "images").glob("*.qcow2")
    kept = image.rename(site.root / "kept.qcow2")
    site.lose_the_store()
    said = site.run("adopt")
    assert "the file of image base:1 is missing" in said
    assert f"understudy image add base FILE --sha256 {image.stem}" in said
    assert "base:1 is ready" in site.run("image", "add", "base", str(kept), "--sha256", image.stem)
    assert image.stat().st_mode & 0o777 == 0o444
    assert "base:1" in site.run("image", "list")
    assert "base:2" not in site.run("image", "list")


def test_a_file_takes_the_place_of_a_copy_that_is_lost_too(site: Site) -> None:
    site.lose_the_store()
    (site.state / "private" / "declarations" / "web.json").unlink()
    site.run("adopt", site.file)
    assert "web: nothing to do" in site.run("apply", site.file, "--dry-run")
    assert "nothing was lost" in site.run("adopt", site.file, expect=2)


def test_a_damaged_store_names_the_ways_back_and_both_work(site: Site) -> None:
    site.run("backup", str(site.root / "b.tar"))
    site.lose_the_store()
    site.store.write_bytes(b"this is a diary\n" * 1000)
    for words in (("status",), ("apply", site.file), ("serve",), ("adopt",), ("events",)):
        said = site.run(*words, expect=1)
        assert "is damaged" in said
        assert "understudy restore FILE --force" in said
        assert "understudy adopt" in said
    assert "there is a store already" in site.run("restore", str(site.root / "b.tar"), expect=2)
    site.run("restore", str(site.root / "b.tar"), "--force")
    assert "nothing to do" in site.run("apply", site.file, "--dry-run")
    site.lose_the_store()
    site.run("adopt")
    assert "nothing to do" in site.run("apply", site.file, "--dry-run")


def test_a_store_of_a_newer_version_is_refused_by_every_command(site: Site) -> None:
    connection = sqlite3.connect(site.store)
    connection.execute("UPDATE facts SET value = '99' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    for words in (("status",), ("apply", site.file), ("serve",), ("backup", "never.tar")):
        said = site.run(*words, expect=1)
        assert "schema version 99" in said
        assert "run the version of Understudy that wrote it" in said


def test_a_store_that_a_controller_works_with_is_not_replaced(site: Site) -> None:
    site.run("backup", str(site.root / "b.tar"))
    serving = subprocess.Popen(site.command("serve"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert serving.stdout is not None
        assert "controller is running" in serving.stdout.readline()
        said = site.run("restore", str(site.root / "b.tar"), "--force", expect=2)
        assert "end 'understudy serve'" in said
        site.run("backup", str(site.root / "while-it-runs.tar"))
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=30)


def test_a_controller_ends_when_its_store_is_taken_away(site: Site) -> None:
    serving = subprocess.Popen(site.command("serve"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    assert "controller is running" in serving.stdout.readline()
    site.lose_the_store()
    _, said = serving.communicate(timeout=30)
    assert serving.returncode == 1
    assert "is gone" in said
    assert "understudy adopt" in said


@pytest.mark.parametrize("most", [2**12, 2**16, 2**18])
def test_a_backup_that_finds_no_room_says_so_and_leaves_nothing(site: Site, most: int) -> None:
    """A process may not write larger files, as on a disk that is full."""
    (site.state / "private" / "uploads" / f"{'a' * 64}.tar").write_bytes(b"x" * 2**19)
    target = site.root / "b.tar"
    command = ["prlimit", f"--fsize={most}", *site.command("backup", str(target))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert list(site.root.glob("*b.tar*")) + list((site.state / "private" / "work").iterdir()) == []
    site.run("backup", str(target))


def test_what_a_set_needs_and_cannot_be_kept_is_told_before_anything_is_declared(site: Site) -> None:
    (site.root / "site.bin").write_bytes(b"x" * 2**20)
    steps = "  steps: [{upload: {from: site.bin, to: /srv/}}]\n"
    file = site.root / "other.yaml"
    file.write_text(f"name: other\nimage: base\ninstances: 0\nsetup:\n{steps}", encoding="utf-8")
    command = ["prlimit", f"--fsize={2**19}", *site.command("apply", str(file))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    cannot, fix = done.stderr.splitlines()
    assert cannot.startswith("understudy: cannot keep ")
    assert cannot.endswith(".tar: File too large")
    assert "check the disk space" in fix
    assert list((site.state / "private" / "uploads").iterdir()) == []
    assert "other" not in site.run("status")


def show_into(site: Site, output: IO[str] | int, unbuffered: str) -> subprocess.CompletedProcess[str]:
    """A command that says something, with its standard output there."""
    return subprocess.run(
        site.command("image", "show", "base", "--json"),
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_the_machine_refuses_is_told_and_not_traced_back_as_a_mistake_of_ours(
    site: Site, unbuffered: str
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = show_into(site, full, unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("understudy: No space left on device\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_mistake(site: Site, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = show_into(site, writer, unbuffered)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_store_elsewhere_is_neither_backed_up_nor_restored_by_us(site: Site) -> None:
    site.run("backup", str(site.root / "b.tar"))
    elsewhere = f'store = "sqlite:///{site.root}/elsewhere.sqlite"\n'
    site.config.write_text(elsewhere + site.config.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("installation", "declarations/web.json"):
        (site.state / "private" / name).unlink()
    before = site.store.read_bytes()
    for words in (("backup", str(site.root / "c.tar")), ("restore", str(site.root / "b.tar"), "--force")):
        said = site.run(*words, expect=2)
        assert "the store is not in the state directory" in said
        assert "its own tools" in said
    assert site.store.read_bytes() == before


def test_an_old_store_put_in_by_hand_is_found_out_by_the_copies_beside_it(site: Site) -> None:
    old = site.root / "old.sqlite"
    site.run("backup", str(site.root / "b.tar"))
    subprocess.run(["tar", "-xf", str(site.root / "b.tar"), "-C", str(site.root), "store.sqlite"], check=True)
    (site.root / "store.sqlite").rename(old)
    site.run("delete", "web")
    Path(site.file).write_text(SET.replace("web", "api"), encoding="utf-8")
    site.run("apply", site.file)
    site.lose_the_store()
    old.rename(site.store)
    assert "does not know set 'api'" in site.run("scale", "web", "0", expect=2)
    site.run("adopt")
    assert "api" in site.run("status")


def test_no_secret_of_a_declaration_is_open_to_others(site: Site) -> None:
    site.run("backup", str(site.root / "b.tar"))
    holding = [path for path in site.root.rglob("*") if path.is_file() and b"a-secret" in path.read_bytes()]
    assert {path.name for path in holding} >= {"web.json", "b.tar"}
    ours = [path for path in holding if path != Path(site.file)]
    assert all(path.stat().st_mode & 0o077 == 0 for path in ours if path.name in ("web.json", "b.tar"))
    assert (site.state / "private").stat().st_mode & 0o777 == 0o700
