"""What doctor makes of the settings alone."""

from __future__ import annotations

import pytest

from orchestrator.config.settings import HostSettings
from orchestrator.doctor.checks import hosts_elsewhere


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
