"""What doctor makes of the settings, and of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.config.settings import HostSettings
from orchestrator.doctor.checks import hosts_elsewhere
from orchestrator.doctor.tpm import examine_authority


@pytest.mark.parametrize(
    ("uri", "is_elsewhere"),
    [
        ("qemu:///system", False),
        ("qemu:///session", False),
        ("qemu+unix:///system?socket=/srv/h2/libvirt-sock", False),
        ("qemu+ssh://localhost/system", False),
        ("qemu+ssh://root@h2.example/system", True),
        ("qemu+tls://10.0.0.2/system", True),
    ],
)
def test_a_host_is_elsewhere_if_its_uri_names_another_machine(uri: str, is_elsewhere: bool) -> None:
    assert hosts_elsewhere([HostSettings(name="h2", uri=uri)]) == (["h2"] if is_elsewhere else [])


def test_no_authority_for_tpms_is_no_finding(tmp_path: Path) -> None:
    assert list(examine_authority("TPMs", tmp_path / "none")) == []


def test_an_authority_that_is_all_its_owners_is_well(tmp_path: Path) -> None:
    (tmp_path / "certserial").touch()
    assert [found.level for found in examine_authority("TPMs", tmp_path)] == ["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_another_user_left_in_the_authority_is_named_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / ".lock.swtpm-localca").touch()
    os.chown(tmp_path, 65534, -1)
    (found,) = examine_authority("TPMs", tmp_path)
    assert found.level == "warning"
    assert ".lock.swtpm-localca" in found.text
    assert found.fix == f"chown -R --reference={tmp_path} {tmp_path}"
