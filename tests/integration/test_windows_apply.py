"""Sets of Windows machines through the command line, against libvirt's own driver for tests: nothing is booted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.models.members import Role
from orchestrator.models.steps import Admit
from orchestrator.store import open_store
from orchestrator.store.records import Recorder
from tests.support.paper_site import PaperSite

PASSWORD = "Correct-Horse-Battery-1"
SET = """\
name: win
image: win
instances: 0
machine: {vcpus: 2, memory: 4GiB, firmware: FIRMWARE, disk_bus: sata, nic: e1000e}
setup:
  answer_file: unattend
  windows: {administrator_password_file: admin.txt, locale: de-DE, synchronous_commands: ["echo a & b"]}
"""


@dataclass(frozen=True)
class Site(PaperSite):
    """With an image in it, and a scale set file with its password beside."""

    def write_password(self, password: str = PASSWORD, mode: int = 0o600) -> None:
        (self.root / "admin.txt").write_text(password + "\n", encoding="utf-8")
        (self.root / "admin.txt").chmod(mode)

    def write_set(self, firmware: str = "bios") -> str:
        file = self.root / "win.yaml"
        file.write_text(SET.replace("FIRMWARE", firmware), encoding="utf-8")
        return str(file)

    def secrets(self) -> list[Path]:
        return sorted((self.state / "private" / "secrets").iterdir())

    def files_with(self, words: str) -> list[Path]:
        files = (path for path in self.state.rglob("*") if path.is_file())
        return sorted(path for path in files if words.encode() in path.read_bytes())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.prepare("windows", "win")
    made.write_password()
    return made


def test_a_password_is_kept_in_one_place_for_as_long_as_a_set_needs_it(site: Site) -> None:
    said = site.run("apply", site.write_set())
    (first,) = site.secrets()
    assert first.read_text(encoding="utf-8") == PASSWORD
    assert site.files_with(PASSWORD) == [first]
    said += site.run("apply", site.write_set()) + site.run("events") + site.run("status", "--json")
    assert site.secrets() == [first]
    assert PASSWORD not in said

    site.write_password("Another-Horse-2")
    site.run("apply", site.write_set())
    (second,) = site.secrets()
    assert second != first
    assert second.read_text(encoding="utf-8") == "Another-Horse-2"

    site.run("delete", "win")
    assert site.secrets() == []
    assert site.files_with("Another-Horse-2") == []


def test_a_dry_run_keeps_no_password(site: Site) -> None:
    assert "win: nothing to do" in site.run("apply", site.write_set(), "--dry-run")
    assert site.secrets() == []
    assert site.files_with(PASSWORD) == []


def test_a_password_that_others_may_read_is_refused_before_anything_is_declared(site: Site) -> None:
    site.write_password(mode=0o640)
    said = site.run("apply", site.write_set(), expect=2)
    assert f"win.yaml:7: password file {site.root}/admin.txt is open to others (mode 0640)" in said
    assert f"(chmod 600 {site.root}/admin.txt)" in said
    assert "win" not in site.run("status")


def test_a_host_without_the_firmware_is_told_what_to_install_before_anything_is_declared(site: Site) -> None:
    # The driver for tests has no domain capabilities at all.
    said = site.run("apply", site.write_set("uefi-secure"), expect=2)
    assert "set 'win': machine.firmware uefi-secure cannot be had: host local:" in said
    assert "apt-get install ovmf swtpm swtpm-tools" in said
    assert site.secrets() == []
    assert "win" not in site.run("status")


def test_nobody_logs_in_to_a_windows_machine_by_ssh(site: Site) -> None:
    site.run("apply", site.write_set())
    store = open_store(f"sqlite:///{site.state}/private/store.sqlite", time.time)
    recorder = Recorder(store, lambda: "4tz9k", lambda: ["127.77.0.2"])
    assert recorder.perform(Admit("win", Role.INSTANCE, "local", "a", "a test"))
    store.close()
    said = site.run("ssh", "win/4tz9k", "--", "whoami", expect=2)
    assert "win-4tz9k cannot be reached by SSH" in said
    assert "understudy console win/4tz9k" in said
