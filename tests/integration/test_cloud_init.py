"""Debian's own cloud-init, without a machine: it boots in namespaces, on the files of the debian-12 image.

What is asked is whether a guest stays itself when the seed of its first boot is gone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.keys import SecretIdentities
from orchestrator.render.seed import GuestIdentity, GuestNetwork, render_seed
from tests.builders import make_spec
from tests.support.guest_images import guest_image

UUID = "5b1c1c1e-0000-4000-8000-000000000001"
MAC = "52:54:00:aa:bb:cc"
USER_DATA = {
    "bootcmd": ["echo bootcmd >> /root/ran"],
    "runcmd": ["echo runcmd >> /root/ran"],
    "write_files": [{"path": "/root/written", "content": "x"}],
}

# One boot: own /run, /tmp, network and processes; then the stages of cloud-init in their order.
BOOT = """\
set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount --rbind /dev "$1/dev"
ip link add eth0 type veth peer name eth1
ip link set eth0 address MAC
exec chroot "$1" sh -e -c '
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    /usr/lib/cloud-init/ds-identify
    for stage in "init --local" init "modules --mode=config" "modules --mode=final"; do
        cloud-init $stage > /dev/null 2>&1
    done
    cat /run/cloud-init/result.json | tr -d "\\n"
    echo
    cat /var/lib/cloud/data/instance-id /etc/hostname
    sha256sum < /etc/ssh/ssh_host_ed25519_key
    grep -h ^Address= /etc/systemd/network/*
    tr "\\n" " " < /root/ran'
""".replace("MAC", MAC)


@pytest.fixture(scope="module")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of the image's last partition."""
    folder = tmp_path_factory.mktemp("debian")
    disk, partition, root = folder / "disk", folder / "partition", folder / "root"
    root.mkdir()
    run("qemu-img", "convert", "-O", "raw", str(guest_image("debian-12")), str(disk))
    start = json.loads(run("sfdisk", "-J", str(disk)))["partitiontable"]["partitions"][-1]["start"]
    run("dd", f"if={disk}", f"of={partition}", "bs=1M", "iflag=skip_bytes", f"skip={start * 512}", "conv=sparse")
    run("debugfs", "-R", f"rdump / {root}", str(partition))
    disk.unlink()
    partition.unlink()
    yield root
    shutil.rmtree(folder)


@pytest.fixture
def root(image_root: Path, tmp_path: Path) -> Path:
    """A copy with the seed where NoCloud also looks for it: without a machine there is no disk to find it on."""
    made = tmp_path / "root"
    run("cp", "-a", str(image_root), str(made))
    private, public = SecretIdentities(tmp_path / "identity.secret").host_key(UUID)
    network = GuestNetwork(MAC, "192.168.203.7/24")
    identity = GuestIdentity(UUID, "web-1", "192.168.203.7", private, public, "ssh-ed25519 AAAA op", network)
    where = made / "var/lib/cloud/seed/nocloud"
    where.mkdir(parents=True)
    for name, content in render_seed(make_spec(setup={"user_data": USER_DATA}), identity).items():
        (where / name).write_bytes(content)
    return made


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def boot(root: Path) -> dict[str, Any]:
    spaces = ["--mount", "--net", "--uts", "--pid", "--fork"]
    result, instance, hostname, key, network, ran = run(
        "unshare", *spaces, "sh", "-c", BOOT, "sh", str(root)
    ).splitlines()
    assert json.loads(result)["v1"]["errors"] == []
    return {"me": (instance, hostname, key, network), "ran": ran.split()}


def test_without_its_seed_a_guest_stays_who_it_is(root: Path) -> None:
    first = boot(root)
    assert first["me"][:2] == (UUID, "web-1")
    assert first["me"][3] == "Address=192.168.203.7/24"
    assert first["ran"] == ["bootcmd", "runcmd"]
    shutil.rmtree(root / "var/lib/cloud/seed")
    for boots in (2, 3):
        again = boot(root)
        assert again["me"] == first["me"]
        # What belongs to each boot runs, what belongs to the instance does not.
        assert again["ran"] == ["bootcmd", "runcmd", *["bootcmd"] * (boots - 1)]


def test_also_where_the_image_lists_no_source(root: Path) -> None:
    settings = root / "etc/cloud/cloud.cfg.d/90-understudy.cfg"
    lines = settings.read_text(encoding="utf-8").splitlines(keepends=True)
    settings.write_text("".join(one for one in lines if not one.startswith("datasource_list")), encoding="utf-8")
    first = boot(root)
    shutil.rmtree(root / "var/lib/cloud/seed")
    assert boot(root)["me"] == first["me"]


def test_it_is_the_vendor_data_that_makes_it_stay(root: Path) -> None:
    """Else this test would be content with any seed."""
    vendor = root / "var/lib/cloud/seed/nocloud/vendor-data"
    vendor.write_text(
        vendor.read_text(encoding="utf-8").replace("manual_cache_clean: true\n", ""), encoding="utf-8"
    )
    first = boot(root)
    shutil.rmtree(root / "var/lib/cloud/seed")
    again = boot(root)
    assert again["me"][0] == "iid-datasource-none"
    assert again["me"][2] != first["me"][2]
