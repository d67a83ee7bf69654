"""An image that comes by URL with a checksum, and in another format, boots and serves (row A1)."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.support.installation import Installation
from tests.support.specs import web_set
from tests.support.web import Page, serving

pytestmark = pytest.mark.guest


def test_a_vhdx_from_the_web_serves_as_a_guest(
    empty: Installation, micro_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    disk = tmp_path / "micro.vhdx"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "vhdx", micro_image, disk], check=True)
    content = disk.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with serving() as server:
        server.pages["/micro.vhdx"] = Page(content)
        said = empty.run("image", "add", "micro", server.url("/micro.vhdx"), "--sha256", digest)
    assert "micro:1 is ready" in said
    empty.run("apply", str(empty.write("web.yaml", web_set(empty, instances=1))))
    (row,) = empty.members("instance")
    assert empty.fetch() == row["name"]
    image = empty.json("image", "show", "micro")
    assert image["digest"] != digest  # converted
    command = ["virsh", "-q", "-c", empty.uri, "dumpxml", row["domain"]]
    assert image["digest"] in subprocess.run(command, capture_output=True, text=True, check=True).stdout
