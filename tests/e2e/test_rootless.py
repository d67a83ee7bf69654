"""The main job as an ordinary user: own libvirtd session, own HAProxy, nothing of root's."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import BASE, Installation, wait_until
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

# libvirt wants a user the system knows. Debian's `games` has been without work for long.
USER = pwd.getpwnam("games").pw_uid


@pytest.fixture
def home(micro_image: Path) -> Iterator[Path]:
    """A home directory with a copy of the product that this user may read."""
    made = BASE / f"understudy-user-{secrets.token_hex(4)}"
    made.mkdir(mode=0o700)
    (made / "run").mkdir(mode=0o700)
    (made / "state").mkdir(mode=0o711)
    root = Path(__file__).resolve().parents[2]
    for name in ("orchestrator", "templates", "images"):
        shutil.copytree(root / name, made / "product" / name)
    packages = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    shutil.copytree(packages, made / "packages", ignore=shutil.ignore_patterns("__editable__*", "_*.pth"))
    shutil.copy(micro_image, made / "micro.qcow2")
    for path in (made, *made.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    yield made
    for process in _processes(USER):
        os.kill(process, signal.SIGTERM)
    wait_until(lambda: not _processes(USER), 20, "the user's processes end")
    shutil.rmtree(made)


@pytest.fixture
def site(home: Path) -> Installation:
    environment = [
        f"HOME={home}",
        f"XDG_RUNTIME_DIR={home}/run",
        f"PYTHONPATH={home}/product:{home}/packages",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    enter = [*user, "env", "-i", "-C", str(home), *environment]
    net = f"127.{secrets.randbelow(90) + 100}.{secrets.randbelow(250) + 1}"
    made = Installation(home / "state", net, enter, "qemu:///session")
    made.configure()
    os.chown(made.root / "config.toml", USER, USER)
    return made


STEPS = "  secrets: {token: {file: token}}\n  steps:\n  - {upload: {from: page, to: /srv/www/page}}\n"


def owned_by_user(path: Path) -> Path:
    os.chown(path, USER, USER)
    return path


def test_the_main_job_without_root(site: Installation, home: Path) -> None:
    """Image, set with upload and secret, pool, claim, restart, reimage, hibernation, scale-in, delete."""
    site.python = "/usr/bin/python3"
    site.run("image", "add", "micro", str(home / "micro.qcow2"))
    owned_by_user(site.write("page", "uploaded\n"))
    owned_by_user(site.write("token", "a token of its own\n")).chmod(0o600)
    text = web_set(site, instances=1, standby="{state: stopped, max_ready: 2}")
    site.write("web.yaml", text.replace("readiness:\n", f"{STEPS}readiness:\n"))
    site.run("apply", str(site.root / "web.yaml"))
    assert site.fetch("/page") == "uploaded"
    assert [name for name in site.volumes() if "seed" in name] == []
    assert [row["forked"] for row in site.members("standby")] == [True]  # a user has golden images, too
    member = site.members("standby")[0]["name"]
    site.run("scale", "web", "2")
    rows = site.members("instance")
    assert member in {row["name"] for row in rows}
    assert {site.fetch() for _ in range(8)} == {row["name"] for row in rows}
    site.run("ssh", f"web/{member}", "--", "true")
    assert _owners(site) == {pwd.getpwuid(USER).pw_name}
    site.run("restart", f"web/{member}")
    site.run("reimage", f"web/{member}")
    assert site.run("ssh", f"web/{member}", "--", "cat /srv/www/page").strip() == "uploaded"
    site.run("scale", "web", "1")
    site.run("pool", "web", "--state", "running")
    site.run("pool", "web", "--state", "hibernated")
    hibernated = site.members("standby")[0]
    assert hibernated["power"] == "hibernated"
    site.run("scale", "web", "2")
    assert hibernated["name"] in {row["name"] for row in site.members("instance")}
    site.run("audit")
    site.run("delete", "web")
    assert site.domains() == []
    assert [name for name in site.volumes() if "-image-" not in name] == []
    site.run("audit")


def _owners(site: Installation) -> set[str]:
    """Users of the machines and of the load balancer."""
    done = subprocess.run(
        ["ps", "-eww", "-o", "user:32=", "-o", "args="], capture_output=True, text=True, check=True
    )
    marks = (f"guest={site.prefix}-", f"{site.root}/haproxy/haproxy.cfg")
    return {line.split()[0] for line in done.stdout.splitlines() if any(mark in line for mark in marks)}


def _processes(user: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=,stat=", "-u", str(user)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in done.stdout.splitlines()]
    return [int(pid) for pid, state in rows if not state.startswith("Z")]
