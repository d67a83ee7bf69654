"""Faults of the host under machines that exist: daemons killed, files deleted, disks full or read-only, the clock
set. Each is survived, with its reason told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.private_host import PrivateHost, private_host
from tests.support.specs import web_set

pytestmark = [pytest.mark.guest, pytest.mark.alone]

BACK = 60  # seconds for a guest to be back in service
DAY = 86400
ROOT = Path(__file__).resolve().parents[2]
REPAIR = "repair: {action: restart, grace: 1s}\n"
LIMITS = 'retry_pause = "1s"\nrepair_patience = "1s"\nshutdown_timeout = "3s"\n'


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    with private_host() as made:
        yield made


@pytest.fixture(scope="module")
def there(host: PrivateHost, micro_image: Path) -> Iterator[Installation]:
    """An installation on the private host, its pool and its private files each on a file system of their own. The
    tests change it in their order."""
    with installation(enter=host.enter) as made, contextlib.ExitStack() as mounts:
        made.configure(limits=LIMITS)
        mount_small(host, made.root / "volumes", "0711")
        made.run("image", "add", "micro", str(micro_image))
        mount_small(host, made.root / "private", "0700")
        for name in ("volumes", "private"):
            mounts.callback(host.run, "umount", "--lazy", str(made.root / name))
        yield made
        made.run("delete", "web")
        host.run("virsh", "-q", "pool-destroy", made.prefix)


def test_libvirtd_killed_while_machines_are_made_costs_no_second_machine(
    host: PrivateHost, there: Installation
) -> None:
    there.write("web.yaml", web_set(there, instances=1, standby="{state: stopped, max_ready: 2}", more=REPAIR))
    process = there.start("apply", str(there.root / "web.yaml"))
    wait_until(there.domains, 30, "a machine is being made")
    host.signal_libvirtd(signal.SIGKILL)
    host.start_libvirtd()
    out, _ = process.communicate(timeout=180)
    if process.returncode != 0:
        there.run("apply", str(there.root / "web.yaml"))
    assert there.status()["converged"], out
    assert len(there.domains()) == 2
    there.run("audit")


def test_without_virtlogd_what_runs_goes_on_and_creations_say_what_is_missing(
    host: PrivateHost, there: Installation
) -> None:
    before = there.fetch()
    host.end_daemon("virtlogd")
    there.write("api.yaml", web_set(there, instances=1, name="api", port=8081))
    try:
        said = there.run("apply", str(there.root / "api.yaml"), expect=1)
        assert "virtlogd" in said
        assert there.fetch() == before != ""
    finally:
        host.start_daemon("virtlogd")
    wait_until(host.path("/run/libvirt/virtlogd-sock").exists, 10, "virtlogd is back")
    there.run("apply", str(there.root / "api.yaml"))
    assert there.fetch(port=8081) == there.members("instance", "api")[0]["name"]
    there.run("delete", "api")


def test_a_pool_member_whose_disk_was_deleted_is_passed_over(host: PrivateHost, there: Installation) -> None:
    (spare,) = there.members("standby")
    host.run("rm", overlay(there, spare))
    there.run("scale", "web", "2")
    assert spare["name"] not in {row["name"] for row in there.status()["members"]}
    (event,) = [one for one in there.json_lines("events", "web") if one["kind"] == "claim_failed"]
    assert "is gone" in event["reason"]
    assert there.status()["instances"] == {"desired": 2, "in_service": 2}
    there.run("scale", "web", "1")


def test_an_instance_whose_disks_were_deleted_is_started_or_made_anew(
    host: PrivateHost, there: Installation
) -> None:
    (row,) = there.members("instance")
    boots = len(there.fetch("/boots").split())
    (base,) = [name for name in there.volumes() if "-image-" in name and not name.endswith(".verified")]
    with there.serving():
        host.run("rm", str(there.root / "volumes" / base))
        destroy(host, row)
        wait_until(lambda: len(there.fetch("/boots").split()) == boots + 1, BACK, "its own disk is kept")
        wait_until(lambda: there.members("instance")[0]["failures"] == 0, 20, "it is well")
        host.run("rm", overlay(there, row))
        destroy(host, row)
        wait_until(lambda: incarnation(there) == row["incarnation"] + 1, BACK, "a new body is made")
        wait_until(lambda: there.fetch("/boots") == "boot", BACK, "it serves, with a new disk")
        wait_until(lambda: there.status()["converged"], BACK, "the set is as declared")
    assert "is gone; making a new one from the image" in there.run("events", "web")
    there.run("audit")


def test_a_machine_undefined_while_it_runs_serves_on_and_is_made_anew_when_it_stops(
    host: PrivateHost, there: Installation
) -> None:
    (row,) = there.members("instance")
    host.run("virsh", "-q", "undefine", row["domain"])
    there.run("apply", str(there.root / "web.yaml"))
    assert there.fetch() == row["name"]
    assert incarnation(there) == row["incarnation"]
    there.run("restart", f"web/{row['name']}")
    assert there.fetch() == row["name"]
    assert incarnation(there) == row["incarnation"] + 1
    assert len(there.domains()) == 2


def test_a_pool_made_read_only_is_named_and_nothing_is_given_up(host: PrivateHost, there: Installation) -> None:
    (row,) = there.members("instance")
    volumes = there.root / "volumes"
    host.run("mount", "--bind", str(volumes), str(volumes))
    host.run("mount", "-o", "remount,bind,ro", str(volumes))
    try:
        said = there.run("scale", "web", "3", expect=1)
        assert "Read-only file system" in said
        assert there.fetch() == row["name"]
    finally:
        host.run("umount", str(volumes))
    there.run("scale", "web", "1")
    there.run("apply", str(there.root / "web.yaml"))
    assert there.status()["converged"]
    assert there.fetch() == row["name"]


def test_a_disk_that_fills_up_under_overlays_is_survived(host: PrivateHost, there: Installation) -> None:
    (row,) = there.members("instance")
    boots = len(there.fetch("/boots").split())
    with there.serving():
        with filled(host, there.root / "volumes"):
            there.write("api.yaml", web_set(there, instances=1, name="api", port=8081))
            said = there.run("apply", str(there.root / "api.yaml"), expect=1)
            assert "No space left on device" in said
            write = "dd if=/dev/urandom of=/root/much bs=64k count=64; sync"
            writing = there.start("ssh", f"web/{row['name']}", "--", write)
            wait_until(lambda: "paused" in host.run("virsh", "domstate", row["domain"]), 20, "it is paused")
            wait_until(lambda: "cannot write its disk" in there.status()["reason"], 20, "the set says so")
        writing.communicate(timeout=30)
        assert writing.returncode == 0
        wait_until(lambda: len(there.fetch("/boots").split()) == boots, BACK, "it goes on where it was")
        there.run("apply", str(there.root / "api.yaml"))
        wait_until(lambda: there.status()["converged"], BACK, "the set is as declared")
    assert incarnation(there) == row["incarnation"]
    there.run("delete", "api")


def test_memory_that_finds_no_room_fails_the_pool_member_and_is_saved_later(
    host: PrivateHost, there: Installation
) -> None:
    saves = Path("/var/lib/libvirt/qemu/save")
    host.run("mount", "-t", "tmpfs", "-o", "size=4m,mode=0750", "tmpfs", str(saves))
    host.run("chown", f"--reference={saves.parent}", str(saves))
    pool = "{state: hibernated, max_ready: 1}"
    there.write("api.yaml", web_set(there, instances=0, name="api", port=8081, standby=pool))
    try:
        assert "cannot hibernate" in there.run("apply", str(there.root / "api.yaml"), expect=1)
        assert there.status("api")["standby"]["health"] == "degraded"
    finally:
        host.run("umount", str(saves))
    there.run("apply", str(there.root / "api.yaml"))
    (spare,) = there.members("standby", "api")
    assert spare["power"] == "hibernated"
    there.run("audit")
    there.run("delete", "api")


def test_a_store_that_cannot_be_written_loses_nothing(host: PrivateHost, there: Installation) -> None:
    (row,) = there.members("instance")
    with there.serving():
        with filled(host, there.root / "private"):
            wait_until(lambda: store_is_full(there), 30, "wishes are refused")
            assert there.fetch() == row["name"]
            destroy(host, row)
        wait_until(lambda: there.fetch() == row["name"], BACK, "it serves again")
        wait_until(lambda: there.status()["converged"], BACK, "the set is as declared")
    assert incarnation(there) == row["incarnation"]
    assert len(there.domains()) == 2
    there.run("audit")


def test_the_clock_set_by_days_repairs_and_delays_nothing(host: PrivateHost, there: Installation) -> None:
    (row,) = there.members("instance")
    before = [(one["name"], one["phase"], one["incarnation"]) for one in there.status()["members"]]
    ahead = there.write("ahead", "0")
    command = [*there.enter, sys.executable, "-m", "tests.support.set_clock", str(ahead), str(there.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as serving:
        try:
            assert serving.stdout is not None
            assert "running" in serving.stdout.readline()
            for days, times in ((1, 1), (-2, 2)):
                ahead.write_text(str(days * DAY), encoding="utf-8")
                wait_until(lambda times=times: told(there, "clock_set") == times, 10, "it is noticed")  # type: ignore[misc]
                assert [
                    (one["name"], one["phase"], one["incarnation"]) for one in there.status()["members"]
                ] == before
                assert there.fetch() == row["name"]
                destroy(host, row)
                wait_until(lambda: there.fetch() == "", 10, "it is off")
                wait_until(lambda: there.fetch() == row["name"], BACK, "it is started again without delay")
        finally:
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(timeout=60) == 0
    assert incarnation(there) == row["incarnation"]


def mount_small(host: PrivateHost, directory: Path, mode: str) -> None:
    """A file system of its own, with what was in the directory."""
    kept = directory.with_suffix(".kept")
    directory.mkdir(exist_ok=True)
    host.run("cp", "-a", str(directory), str(kept))
    host.run("mount", "-t", "tmpfs", "-o", f"size=400m,mode={mode}", "tmpfs", str(directory))
    host.run("cp", "-a", f"{kept}/.", str(directory))
    host.run("chmod", mode, str(directory))


def overlay(on: Installation, row: dict[str, Any]) -> str:
    return str(on.root / "volumes" / f"{row['domain']}.{row['incarnation']}.qcow2")


def incarnation(on: Installation) -> int:
    return int(on.members("instance")[0]["incarnation"])


def told(on: Installation, kind: str) -> int:
    return sum(one["kind"] == kind for one in on.json_lines("events", "web"))


def destroy(host: PrivateHost, row: dict[str, Any]) -> None:
    host.run("virsh", "-q", "destroy", row["domain"])


def store_is_full(on: Installation) -> bool:
    """A command that would record something says why it cannot."""
    done = subprocess.run(on.command("scale", "web", "1"), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 1 and "check the disk space" in done.stdout + done.stderr


@contextlib.contextmanager
def filled(host: PrivateHost, directory: Path) -> Iterator[None]:
    """To the last byte, until the block ends."""
    filler = directory / "filler"
    subprocess.run([*host.enter, "sh", "-c", f"cat /dev/zero > {filler}"], capture_output=True, check=False)
    try:
        yield
    finally:
        host.run("rm", str(filler))
