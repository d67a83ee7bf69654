"""Faults: a clear reason, nothing lost, nothing left over, and going on when the cause is mended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.models.naming import machine_mac
from tests.support.installation import Installation, installation, wait_until
from tests.support.load import SLOW_WEB
from tests.support.private_host import PrivateHost, private_host
from tests.support.servers import all_servers, ready_servers
from tests.support.specs import web_set
from tests.support.traffic import Download

pytestmark = [pytest.mark.guest, pytest.mark.alone]


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    with private_host() as made:
        yield made


@pytest.fixture
def there(host: PrivateHost, micro_image: Path) -> Iterator[Installation]:
    """An installation whose host is the private one."""
    with installation(enter=host.enter) as made:
        made.run("image", "add", "micro", str(micro_image))
        yield made


def test_user_data_that_fails_is_reported_with_the_guests_own_words(site: Installation) -> None:
    broken = "#!/bin/sh\necho cannot find the database >&2\nexit 3\n"
    site.write("web.yaml", web_set(site, instances=1, user_data=broken))
    said = site.run("apply", str(site.root / "web.yaml"), expect=1)
    assert "user-data script failed with exit status 3" in said
    row = site.status()["members"][0]
    assert (row["phase"], row["failures"]) == ("failed", 1)
    events = site.run("events", "web")
    assert "cannot find the database" in events
    wait_until(lambda: site.domains() == [] and overlays(site) == [], 5, "the failed machine is removed")

    site.write("web.yaml", web_set(site, instances=1))
    site.run("apply", str(site.root / "web.yaml"))
    assert site.fetch() == site.members("instance")[0]["name"]


def test_a_step_that_fails_is_told_with_its_seconds_and_the_end_of_what_it_said(site: Installation) -> None:
    (site.root / "files").mkdir()
    site.write("files/greeting", "hello from the operator\n")
    steps = (
        "  steps:\n  - upload: {from: files/, to: /srv/files}\n"
        "  - run: cat /srv/files/greeting; sleep 1; echo out of luck >&2; exit 9\n"
    )
    site.write("web.yaml", web_set(site, instances=1).replace("readiness:\n", f"{steps}readiness:\n"))
    said = site.run("apply", str(site.root / "web.yaml"), expect=1)
    assert "out of luck" in said
    (failed,) = [one["reason"] for one in site.json_lines("events", "web") if one["kind"] == "failed"]
    seconds = re.search(r"step 2 of 2 failed after ([0-9.]+) s: ", failed)
    assert seconds is not None
    assert float(seconds[1]) >= 1
    assert "out of luck" in failed
    told = [one["reason"] for one in site.json_lines("events", "web") if one["kind"] == "step_output"]
    assert "hello from the operator" in "\n".join(told)
    site.run("delete", "web")


def test_a_guest_that_never_answers_fails_with_its_console(site: Installation) -> None:
    silent = "#!/bin/sh\necho the service stays down > /dev/console\n"
    # Long enough for a slow machine to come to the end of its setup: only then its service is asked.
    site.write("web.yaml", web_set(site, instances=1, user_data=silent, timeout="40s"))
    said = site.run("apply", str(site.root / "web.yaml"), expect=1)
    assert "does not answer with 200" in said
    assert "the service stays down" in site.run("events", "web")
    site.run("delete", "web")


def test_what_fails_is_tried_again_with_pauses(site: Installation) -> None:
    site.configure(limits='retry_pause = "2s"\n')
    site.write("web.yaml", web_set(site, instances=1, user_data="#!/bin/sh\nexit 3\n"))
    site.run("apply", str(site.root / "web.yaml"), expect=1)
    with site.serving():
        wait_until(lambda: site.status()["members"][0]["failures"] >= 3, 90, "it is tried again")
    pauses = [event for event in site.run("events", "web").splitlines() if "trying" in event]
    assert len(pauses) >= 2
    site.run("delete", "web")


def test_apply_gives_up_waiting_in_time_and_goes_on_later(site: Installation) -> None:
    site.write("web.yaml", web_set(site, instances=1))
    said = site.run("apply", str(site.root / "web.yaml"), "--timeout", "1", expect=3)
    assert "is not as declared after 1 s" in said
    site.run("apply", str(site.root / "web.yaml"))
    assert site.status()["converged"]


@pytest.mark.parametrize("after", [0.6, 1.2, 2.5])
def test_interrupted_at_any_moment_the_next_apply_goes_on(site: Installation, after: float) -> None:
    site.write("web.yaml", web_set(site, instances=2))
    process = site.start("apply", str(site.root / "web.yaml"))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=after)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "interrupted" in out
    site.run("apply", str(site.root / "web.yaml"))
    assert site.status()["instances"] == {"desired": 2, "in_service": 2}
    assert len(site.domains()) == 2
    assert len(overlays(site)) == 2


def test_libvirtd_that_is_down_is_named_with_the_fix(host: PrivateHost, there: Installation) -> None:
    there.write("web.yaml", web_set(there, instances=1))
    host.stop_libvirtd()
    try:
        said = there.run("apply", str(there.root / "web.yaml"), expect=1)
        assert "does not answer" in said or "cannot reach libvirt" in said
        assert "FAULT" in there.run("doctor", expect=1)
    finally:
        host.start_libvirtd()
    there.run("apply", str(there.root / "web.yaml"))
    assert there.status()["converged"]


def test_libvirtd_restarted_in_the_middle_costs_nothing(host: PrivateHost, there: Installation) -> None:
    there.write("web.yaml", web_set(there, instances=2, standby="{state: stopped, max_ready: 3}"))
    process = there.start("apply", str(there.root / "web.yaml"))
    wait_until(lambda: len(there.domains()) >= 1, 30, "a machine is being made")
    host.stop_libvirtd()
    host.start_libvirtd()
    out, _ = process.communicate(timeout=180)
    if process.returncode != 0:
        there.run("apply", str(there.root / "web.yaml"))
    status = there.status()
    assert status["converged"], out
    assert len(there.domains()) == 3
    assert len(overlays(there)) == 3


def test_a_full_disk_is_named_and_leaves_nothing_half_made(host: PrivateHost, there: Installation) -> None:
    volumes = there.root / "volumes"
    volumes.mkdir(mode=0o711, exist_ok=True)
    host.run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0711", "tmpfs", str(volumes))
    try:
        there.write("web.yaml", web_set(there, instances=1))
        said = there.run("apply", str(there.root / "web.yaml"), expect=1)
        assert "No space left on device" in said
        assert there.domains() == []
        host.run("mount", "-o", "remount,size=300m", str(volumes))
        there.run("apply", str(there.root / "web.yaml"))
        assert there.fetch() == there.members("instance")[0]["name"]
        there.run("delete", "web")
    finally:
        there.run("image", "remove", "micro", expect=0)
        host.run("virsh", "-q", "pool-destroy", there.prefix)
        host.run("umount", str(volumes))


def test_missing_haproxy_is_named_with_the_fix(host: PrivateHost, there: Installation, tmp_path: Path) -> None:
    hidden = tmp_path / "nothing"
    hidden.write_text("")
    host.run("mount", "--bind", str(hidden), "/usr/sbin/haproxy")
    try:
        there.write("web.yaml", web_set(there, instances=1))
        said = there.run("apply", str(there.root / "web.yaml"), expect=1)
        assert "HAProxy is not installed" in said
        assert "apt-get install haproxy" in there.run("doctor", expect=1)
    finally:
        host.run("umount", "/usr/sbin/haproxy")
    there.run("apply", str(there.root / "web.yaml"))
    assert there.status()["converged"]


def test_guests_on_a_libvirt_network_get_allotted_addresses(host: PrivateHost, there: Installation) -> None:
    network = there.write(
        "network.xml",
        "<network><name>ustnet</name><forward mode='nat'/><ip address='192.168.203.1' netmask='255.255.255.0'>"
        "<dhcp><range start='192.168.203.100' end='192.168.203.200'/></dhcp></ip></network>",
    )
    host.run("virsh", "-q", "net-create", str(network))
    there.configure(network='[network]\nmode = "network"\nname = "ustnet"\n')
    there.write("web.yaml", web_set(there, instances=2, standby="{state: stopped, max_ready: 3}"))
    there.run("apply", str(there.root / "web.yaml"))
    rows = there.status()["members"]
    assert all(row["address"].startswith("192.168.203.") for row in rows)
    instances = [row for row in rows if row["role"] == "instance"]
    assert {there.fetch() for _ in range(6)} == {row["name"] for row in instances}
    one, other = instances
    said = there.run("ssh", f"web/{one['name']}", "--", f"wget -q -O - http://{other['address']}/")
    assert said.strip() == other["name"]
    reservations = host.run("virsh", "-q", "net-dumpxml", "ustnet")
    assert all(f"ip='{row['address']}'" in reservations for row in rows)
    there.run("audit")
    owner = host.run("virsh", "-q", "dumpxml", there.domains()[0]).partition('installation="')[2].partition('"')[0]
    left = f"<host mac='{machine_mac(owner, 'web-zzzzz')}' name='web-zzzzz' ip='192.168.203.77'/>"
    theirs = "<host mac='52:54:00:00:00:77' name='web-yyyyy' ip='192.168.203.78'/>"
    for entry in (left, theirs):
        host.run("virsh", "-q", "net-update", "ustnet", "add", "ip-dhcp-host", entry, "--live")
    assert "reservation web-zzzzz on local" in there.run("audit", expect=1)
    there.run("audit", "--fix")
    reservations = host.run("virsh", "-q", "net-dumpxml", "ustnet")
    assert "web-zzzzz" not in reservations and "web-yyyyy" in reservations
    host.run("virsh", "-q", "net-update", "ustnet", "delete", "ip-dhcp-host", theirs, "--live")
    there.run("scale", "web", "3")
    assert any(row["forked"] for row in there.status()["members"])
    there.run("reimage", f"web/{rows[0]['name']}") if rows[0]["role"] == "instance" else None
    there.run("delete", "web")
    assert "<host " not in host.run("virsh", "-q", "net-dumpxml", "ustnet")


# So long is a drain pending, whoever is served: longer than `serve` takes to notice a HAProxy that is gone.
HELD = 12
SLOW_LINES = 100  # 0.2 s each


def test_a_haproxy_that_is_killed_forgets_no_drain(site: Installation) -> None:
    """It dies with a download that the drain waited for; what is left of the drain is its hook."""
    text = web_set(site, user_data=SLOW_WEB, more=f"hooks: {{on_drain: ['sleep {HELD}']}}\n")
    site.write("web.yaml", text.replace("drain_timeout: 5s", "drain_timeout: 30s"))
    site.run("apply", str(site.root / "web.yaml"))
    with site.serving():
        download = Download(site.endpoint, f"/cgi-bin/slow?{SLOW_LINES}")
        leaving = download.await_text("line 0").split()[0]
        (stays,) = {row["name"] for row in site.members("instance")} - {leaving}
        removal = site.start("remove", f"web/{leaving}")
        wait_until(lambda: ready_servers(site.root) == {stays}, 20, "it is drained")
        assert all_servers(site.root) == {leaving, stays}
        killed = balancer_pid(site)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: balancer_pid(site) not in (None, killed) and all_servers(site.root), 20, "it is back")
        # From its first moment on: the drain is as pending as it was, and nothing new goes there.
        assert all_servers(site.root) == {leaving, stays}
        assert removal.poll() is None
        while removal.poll() is None:
            assert leaving not in ready_servers(site.root)
            time.sleep(0.02)
        said, _ = removal.communicate(timeout=60)
        assert removal.returncode == 0, said
        download.await_end()
        assert "the end" not in download.text  # nobody can serve on what a killed HAProxy had under way
        wait_until(lambda: {site.fetch() for _ in range(4)} == {stays}, 20, "the other one serves")
        assert all_servers(site.root) == {stays}
    assert [row["name"] for row in site.members("instance")] == [stays]
    assert site.domains() == [f"{site.prefix}-{stays}"]


def balancer_pid(site: Installation) -> int | None:
    """None while it is being written."""
    with contextlib.suppress(OSError, ValueError):
        return int((site.root / "haproxy" / "haproxy.pid").read_text(encoding="utf-8"))
    return None


def overlays(site: Installation) -> list[str]:
    """Of machines, the lowest of each: one of whom a golden image was taken has another above it."""
    others = ("-image-", "-golden-", "-local.", "-drive.", ".top.")
    return [name for name in site.volumes() if name.endswith(".qcow2") and not any(one in name for one in others)]
