"""What doctor makes of the settings, and of files."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from orchestrator.config.settings import HostSettings
from orchestrator.doctor.checks import hosts_elsewhere
from orchestrator.doctor.qemu_user import QemuUser, find_qemu_user
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


def told(label: str) -> str:
    """What libvirt tells of a host whose QEMUs run as `label`."""
    secmodel = f"<secmodel><model>dac</model><baselabel type='kvm'>{label}</baselabel></secmodel>"
    return f"<capabilities><host>{secmodel}</host></capabilities>"


def test_qemu_has_the_group_of_its_users_password_entry_and_that_of_its_label() -> None:
    nobody = pwd.getpwnam("nobody")
    user = find_qemu_user(told(f"+{nobody.pw_uid}:+4321"))
    assert user is not None
    assert user.groups >= {4321, nobody.pw_gid}


@pytest.mark.parametrize("label", ["+0:+0", "", "qemu"])
def test_a_qemu_that_runs_as_root_or_as_nobody_knows_whom_is_not_judged(label: str) -> None:
    assert find_qemu_user(told(label)) is None


@pytest.mark.parametrize(
    ("mode", "user", "may"),
    [
        (0o660, QemuUser(999_999, frozenset([os.getgid()])), True),
        (0o660, QemuUser(999_999, frozenset([999_999])), False),
        (0o600, QemuUser(999_999, frozenset([os.getgid()])), False),
        (0o606, QemuUser(999_999, frozenset([999_999])), True),
        (0o600, QemuUser(os.getuid(), frozenset()), True),
    ],
)
def test_a_device_is_open_by_owner_group_or_to_all(tmp_path: Path, mode: int, user: QemuUser, may: bool) -> None:
    device = tmp_path / "kvm"
    device.touch()
    os.chown(device, -1, os.getgid())
    device.chmod(mode)
    assert user.may_open(device) is may


def test_the_first_directory_that_qemu_may_not_pass_through_is_named(tmp_path: Path) -> None:
    user, inner = QemuUser(os.getuid(), frozenset()), tmp_path / "closed" / "volumes"
    inner.mkdir(parents=True)
    assert user.find_blocked(inner) is None
    (tmp_path / "closed").chmod(0o600)
    assert user.find_blocked(inner) == tmp_path / "closed"
