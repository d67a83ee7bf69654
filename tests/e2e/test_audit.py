"""`understudy audit` on a real host: what was put there, and what was taken away, behind the product's back."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.haproxy.runtime import RuntimeApi
from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

DRIVE = "drives: [{name: data, size: 16MiB, mount: /mnt/data}]\n"


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance and one stopped pool member; the tests of this module change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_set(made, instances=1, standby="{state: stopped, max_ready: 2}", more=DRIVE))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def audited(web: Installation, *options: str) -> dict[str, Any]:
    done = subprocess.run(web.command("audit", "--json", *options), capture_output=True, text=True, check=False)
    said = dict(json.loads(done.stdout))
    assert done.returncode == (1 if said["left"] else 4 if said["unknown"] else 0), done.stderr
    assert said["clean"] is (done.returncode == 0)
    return said


def found(said: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(one["kind"], one["fault"], one["name"]) for one in said["findings"]}


def remember(web: Installation, *names: str) -> None:
    """As if these had been members once, and were let go."""
    with sqlite3.connect(web.root / "private" / "store.sqlite") as store:
        for name in names:
            store.execute("INSERT INTO departed (name, at) VALUES (?, ?)", (name, time.time()))
    store.close()


def virsh(web: Installation, *arguments: str, text: str = "") -> str:
    command = ["virsh", "-q", "-c", web.uri, *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def test_a_settled_installation_is_clean(web: Installation) -> None:
    assert "what exists is what should" in web.run("audit")
    assert audited(web) == {
        "clean": True,
        "findings": [],
        "left": 0,
        "unknown": [],
        "controller_at_work": False,
    }


def test_what_was_left_over_is_found_and_removed_and_nothing_else_is(web: Installation) -> None:
    before = (web.domains(), web.volumes())
    remember(web, "web-zzzzz", "web-yyyyy")
    tag = f"{web.prefix}-web-zzzzz"
    owner = virsh(web, "dumpxml", web.domains()[0]).partition('installation="')[2].partition('"')[0]
    metadata = (
        "<metadata><understudy:owner xmlns:understudy='https://understudy.dev/xmlns/owner/1' "
        f"installation='{owner}' set='web' member='web-zzzzz' incarnation='1'/></metadata>"
    )
    rest = "<memory unit='MiB'>32</memory><os><type>hvm</type></os>"
    virsh(web, "define", "/dev/stdin", text=f"<domain type='qemu'><name>{tag}</name>{metadata}{rest}</domain>")
    foreign = f"{web.prefix}-theirs"
    virsh(web, "define", "/dev/stdin", text=f"<domain type='qemu'><name>{foreign}</name>{rest}</domain>")
    rescue, held = f"rescue-{web.prefix}", f"{web.prefix}-web-yyyyy.2.qcow2"
    source = f"<source file='{web.root / 'volumes' / held}'/><target dev='vda' bus='virtio'/>"
    rest += f"<devices><disk type='file'>{source}</disk></devices>"
    virsh(web, "define", "/dev/stdin", text=f"<domain type='qemu'><name>{rescue}</name>{rest}</domain>")
    unknown_drive, raw = f"{web.prefix}-drive.old.data.0.qcow2", f"{web.prefix}-local.web-zzzzz.1.raw"
    left = (f"{web.prefix}-web-yyyyy.1.qcow2", f"{web.prefix}-local.web-yyyyy.1.qcow2")
    for name in (*left, held, unknown_drive, raw, "a.txt"):
        (web.root / "volumes" / name).write_bytes(b"x")
    logs, log = web.logs(), f"{web.prefix}-web-yyyyy.1.console.log.0"
    (web.root / "volumes" / "consoles" / log).write_bytes(b"x")
    try:
        expected = {
            ("machine", "left over", tag),
            *(("volume", "left over", name) for name in left),
            ("log", "left over", log),
            ("volume", "wrong", held),
            ("volume", "wrong", raw),
            ("drive", "left over", unknown_drive),
        }
        assert found(audited(web)) == expected
        said = audited(web, "--fix")
        assert {one["name"] for one in said["findings"] if not one["fixed"]} == {unknown_drive, held, raw}
        assert sorted(web.domains()) == sorted([*before[0], foreign])
        assert sorted(web.volumes()) == sorted([*before[1], held, unknown_drive, raw, "a.txt"])
        assert web.logs() == logs
    finally:
        for name in (foreign, rescue):
            virsh(web, "undefine", name)
        for name in (held, unknown_drive, raw, "a.txt"):
            (web.root / "volumes" / name).unlink()
        virsh(web, "pool-refresh", web.prefix)
    assert audited(web)["clean"]


def test_a_seed_that_was_not_taken_out_is_found_and_removed_with_its_place_in_the_machine(
    web: Installation,
) -> None:
    assert [name for name in web.volumes() if name.endswith(".seed.iso")] == []
    (instance,) = (one for one in web.status("web")["members"] if one["role"] == "instance")
    seed = web.root / "volumes" / f"{instance['domain']}.1.seed.iso"
    seed.write_bytes(b"\0" * 32769 + b"CD001" + b"\0" * 4096)
    source = f"<source file='{seed}'/><target dev='vdz' bus='virtio'/><readonly/>"
    disk = f"<disk type='file' device='disk'><driver name='qemu' type='raw'/>{source}</disk>"
    virsh(web, "attach-device", instance["domain"], "/dev/stdin", "--config", text=disk)
    assert found(audited(web)) == {("seed", "left over", seed.name)}
    assert audited(web, "--fix")["clean"]
    assert not seed.exists()
    assert seed.name not in virsh(web, "dumpxml", instance["domain"], "--inactive")
    seed.write_bytes(b"\0" * 40000)  # as one is that its guest did not let go of
    assert audited(web)["clean"]
    seed.unlink()


def test_what_a_killed_import_keeps_for_the_next_one_is_no_finding(web: Installation) -> None:
    slow = web.root / "slow.raw"
    with slow.open("wb") as file:
        file.write(os.urandom(510) + b"\x55\xaa" + os.urandom(2**27 - 512))
    work = web.root / "private" / "work"
    process = web.start("image", "add", "slow", str(slow))
    try:
        wait_until(lambda: list(work.glob("*.origin")), 30, "it has begun")
        process.send_signal(signal.SIGSTOP)
        assert audited(web)["clean"]
    finally:
        process.kill()
        process.communicate()
    assert audited(web)["clean"]
    assert "slow:1 is ready" in web.run("image", "add", "slow", str(slow))
    assert list(work.glob("*.*")) == []
    web.run("image", "remove", "slow")
    slow.unlink()
    assert audited(web)["clean"]


def test_what_a_killed_command_left_is_removed(web: Installation) -> None:
    left = web.root / "private" / "work" / "build-left"
    left.mkdir()
    (left / "disk.raw").write_bytes(b"half of it")
    assert found(audited(web)) == {("scratch", "left over", left.name)}
    assert audited(web, "--fix")["clean"]
    assert not left.exists()


def test_a_server_that_was_changed_by_hand_is_put_right(web: Installation) -> None:
    (row,) = web.members("instance")
    talk = RuntimeApi(web.root / "haproxy" / "stats.sock")
    talk.ask(f"set server web.http/{row['name']} state maint")
    assert found(audited(web)) == {("balancer", "wrong", f"web.http/{row['name']}")}
    said = audited(web, "--fix")
    assert said["clean"]
    wait_until(lambda: web.fetch() == row["name"], 5, "it serves again")


def test_what_is_missing_is_left_to_the_controller_which_heals_it(web: Installation) -> None:
    (row,) = web.members("instance")
    domain = str(row["domain"])
    virsh(web, "destroy", domain)
    said = audited(web, "--fix")
    assert ("machine", "wrong", domain) in found(said)
    assert not said["clean"]
    with web.serving():
        wait_until(lambda: web.status()["converged"], 60, "it is healed")
        assert audited(web)["clean"]
    assert web.members("instance")[0]["incarnation"] == row["incarnation"]


def test_an_operation_under_way_is_never_taken_for_a_leak(web: Installation) -> None:
    with web.serving():
        process = web.start("scale", "web", "3")
        looks = 0
        while process.poll() is None:
            said = audited(web)
            assert said["findings"] == []
            looks += 1
            time.sleep(0.2)
        process.communicate()
    assert process.returncode == 0
    assert looks > 2
    assert audited(web)["clean"]


def test_what_libvirt_keeps_of_a_machine_that_is_gone_is_found_by_the_names_that_were_ours(
    web: Installation,
) -> None:
    names = {str(row["name"]) for row in web.members("instance")}
    web.run("scale", "web", "1")
    gone = min(names - {str(row["name"]) for row in web.members("instance")})
    kept = [
        Path(f"/var/lib/libvirt/qemu/nvram/{web.prefix}-{gone}_VARS.fd"),
        Path(f"/var/lib/libvirt/qemu/save/{web.prefix}-{gone}.save"),
    ]
    theirs = Path(f"/var/lib/libvirt/qemu/nvram/{web.prefix}-web-xxxxx_VARS.fd")
    try:
        for path in (*kept, theirs):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        assert found(audited(web)) == {("remnant", "left over", str(path)) for path in kept}
        assert audited(web, "--fix")["clean"]
        assert [path.exists() for path in (*kept, theirs)] == [False, False, True]
    finally:
        for path in (*kept, theirs):
            path.unlink(missing_ok=True)


def test_a_host_that_does_not_answer_is_named_and_not_judged(web: Installation) -> None:
    hosts = (
        f'[[hosts]]\nuri = "{web.uri}"\naccelerator = "tcg"\n'
        '[[hosts]]\nname = "gone"\nzone = "b"\nuri = "qemu+unix:///system?socket=/nowhere"\n'
    )
    web.configure(hosts=hosts)
    said = audited(web)
    assert [one["host"] for one in said["unknown"]] == ["gone"]
    assert said["findings"] == []
    assert "unknown    host gone: nothing of it was judged" in web.run("audit", expect=4)
