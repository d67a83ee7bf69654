"""known_hosts: one line for each guest."""

from __future__ import annotations

import pytest

from orchestrator.render.ssh import render_known_hosts
from tests.golden.golden import assert_golden

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHostKey"


def test_known_hosts_are_rendered_like_their_golden_file() -> None:
    lines = render_known_hosts("127.77.0.2", 20022, KEY) + render_known_hosts("192.168.122.50", 22, KEY)
    assert_golden("known_hosts", lines)


@pytest.mark.parametrize(("port", "line"), [(22, f"10.0.0.2 {KEY}\n"), (20022, f"[10.0.0.2]:20022 {KEY}\n")])
def test_only_a_port_other_than_22_is_written(port: int, line: str) -> None:
    assert render_known_hosts("10.0.0.2", port, f"{KEY}\n") == line
