"""A controller killed with SIGKILL at every step and in the middle of every kind of call comes back and converges.

Each operation is carried out by processes that kill themselves, each at another kind of point, until one comes to
its end (`tests.support.crash`). Then the product audits the host, and virsh and HAProxy's socket are asked, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.kill_points import REACHED, SLOW
from tests.support.servers import ready_servers
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

DISKS = """\
local_storage: {size: 16MiB, mount: /mnt/local}
drives: [{name: data, size: 16MiB, mount: /mnt/data}]
hooks: {on_claim: ["true"]}
"""
POOL = "{state: hibernated, max_ready: 2}"

OPERATIONS = {
    "apply",
    "scale-out",
    "scale-out-stopped",
    "scale-out-running",
    "scale-cold",
    "scale-fork",
    "scale-in",
    "restart",
    "reimage",
    "repair",
    "rollout",
    "delete",
}


class Crashing:
    """One installation, the kinds of points that have killed its controllers, and what the audits found."""

    def __init__(self, on: Installation) -> None:
        self.on = on
        self.tried = on.root / "tried.txt"
        self.tried.touch()
        self.has_local_storage = True
        self.kills: list[str] = []
        self.leaks: list[str] = []

    def carry_out(self, operation: str, *arguments: str, then: Callable[[], object] = lambda: None) -> list[str]:
        """Kinds that killed it on its way; `then` precedes the audit. Raises CalledProcessError if it could not
        be brought to its end."""
        command = [sys.executable, "-m", "tests.support.crash", str(self.on.root), str(self.tried)]
        began = time.monotonic()
        done = subprocess.run(
            [*command, operation, *arguments], capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{operation}: {done.stdout[-500:]}\n{done.stderr[-3000:]}"
        said = json.loads(done.stdout.splitlines()[-1])
        kinds = [str(one) for one in said["kinds"]]
        self.kills += kinds
        # Whose machine died behind the controller's back is for HAProxy's own checks to find.
        self.leaks += [] if operation == "repair" else said["astray"]
        print(f"{operation}: killed {len(kinds)} times, {time.monotonic() - began:.1f} s")
        then()
        self.audit(operation)
        return kinds

    def audit(self, after: str) -> None:
        """By the product, which must find nothing, and past it."""
        audited = subprocess.run(self.on.command("audit", "--json"), capture_output=True, text=True, check=False)
        said = json.loads(audited.stdout)
        found = [f"{one['kind']} {one['name']}: {one['wrong']}" for one in said["findings"]]
        found += differences(self.on, self.has_local_storage)
        self.leaks += [f"after {after}: {one}" for one in found]
        print(f"after {after}: {len(found)} left over")
        assert found == [], f"after {after}"
        assert audited.returncode == 0


@pytest.fixture(scope="module")
def crashing(micro_image: Path) -> Iterator[Crashing]:
    """The tests of this module change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_set(made, instances=1, standby=POOL, more=DISKS))
        yield Crashing(made)


def differences(on: Installation, has_local_storage: bool) -> list[str]:
    """What is there against the status, by virsh, the process table and HAProxy's socket."""
    done = subprocess.run(on.command("status", "web", "--json"), capture_output=True, text=True, check=False)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["members"] if done.returncode == 0 else []
    domains = {str(row["domain"]) for row in rows}
    bodies = {f"{row['domain']}.{row['incarnation']}.qcow2" for row in rows}
    found = compared("domains", domains, set(on.domains()))
    there = {name for name in on.volumes() if name.endswith(".qcow2") and not is_shared_or_kept(name)}
    found += compared("overlays", bodies, there)
    others = [name for name in (*on.volumes(), *on.logs()) if name.endswith((".seed.iso", ".console.log"))]
    found += [
        f"file {one}" for one in others if one.rpartition(".")[0].rpartition(".")[0] + ".qcow2" not in bodies
    ]
    locals_there = Counter(name.split(".")[1] for name in on.volumes() if f"{on.prefix}-local." in name)
    with_local = {str(row["name"]) for row in rows} if has_local_storage else set()
    found += compared("local storage", with_local, set(locals_there))
    found += [f"{name} has two local storages" for name, count in locals_there.items() if count > 1]
    serving = {str(row["name"]) for row in rows if row["phase"] == "in_service"}
    found += compared("servers", serving, ready_servers(on.root))
    running = sum(row["power"] == "running" for row in rows)
    processes = on.processes()
    machines = [words for words in processes if "guest=" in words]
    if len(machines) != running:
        found.append(f"{len(machines)} QEMU processes for {running} running machines")
    balancers = len(processes) - len(machines)
    if balancers != (1 if rows else 0):
        found.append(f"{balancers} HAProxy processes")
    addresses = Counter(row["address"] for row in rows)
    found += [f"address {one} twice" for one, count in addresses.items() if count > 1]
    return found


def is_shared_or_kept(name: str) -> bool:
    """No overlay of a machine, although it is qcow2 too; golden images and their sources the audit judges."""
    return name.endswith(".top.qcow2") or any(
        kind in name for kind in ("-image-", "-golden-", "-local.", "-drive.")
    )


def compared(what: str, wanted: set[str], there: set[str]) -> list[str]:
    return [f"{what}: {one} is {'missing' if one in wanted else 'left over'}" for one in sorted(wanted ^ there)]


def instances(on: Installation) -> dict[str, int]:
    """Name -> incarnation."""
    return {str(row["name"]): int(row["incarnation"]) for row in on.members("instance")}


def drive_files(on: Installation) -> list[str]:
    return sorted(name for name in on.volumes() if f"{on.prefix}-drive." in name)


def test_apply(crashing: Crashing) -> None:
    on = crashing.on
    crashing.carry_out("apply", str(on.root / "web.yaml"))
    (name,) = instances(on)
    assert on.fetch() == name
    assert [row["power"] for row in on.members("standby")] == ["hibernated"]
    on.run("ssh", f"web/{name}", "--", "echo kept > /mnt/data/f; sync")


def test_a_claim_from_the_pool(crashing: Crashing) -> None:
    on = crashing.on
    before, (spare,) = instances(on), on.members("standby")
    crashing.carry_out("scale-out", "web", "2")
    assert set(instances(on)) == {*before, spare["name"]}
    assert instances(on).items() >= before.items()


def test_growth_without_a_pool(crashing: Crashing) -> None:
    on = crashing.on
    before = instances(on)
    crashing.carry_out("scale-cold", "web", "3")
    assert len(instances(on)) == 3
    assert instances(on).items() >= before.items()


def test_scale_in(crashing: Crashing) -> None:
    on = crashing.on
    before, drives = instances(on), drive_files(on)
    crashing.carry_out("scale-in", "web", "1")
    assert len(instances(on)) == 1
    assert instances(on).items() <= before.items()
    assert drive_files(on) == drives
    assert len(drives) == 3


@pytest.mark.parametrize("state", ["stopped", "running"])
def test_a_claim_from_a_pool_in_another_state(crashing: Crashing, state: str) -> None:
    on = crashing.on
    on.run("pool", "web", "--state", state)
    before, (spare,) = instances(on), on.members("standby")
    assert spare["power"] == state
    crashing.carry_out(f"scale-out-{state}", "web", "2")
    assert set(instances(on)) == {*before, spare["name"]}
    assert instances(on).items() >= before.items()
    on.run("scale", "web", "1")
    assert instances(on) == before


def test_restart(crashing: Crashing) -> None:
    on = crashing.on
    on.run("pool", "web", "--state", "hibernated")
    ((name, body),) = instances(on).items()
    for _ in range(3):
        crashing.carry_out("restart", f"web/{name}", str(time.time()))
        # After a kill in the middle of what it asks libvirt first, the guest may be off and nobody shuts it down.
        if "host.shut_down_machine during" in crashing.kills:
            break
    assert instances(on) == {name: body}


def test_reimage(crashing: Crashing) -> None:
    on = crashing.on
    ((name, body),) = instances(on).items()
    drives = drive_files(on)
    crashing.carry_out("reimage", f"web/{name}", str(body + 1))
    assert instances(on) == {name: body + 1}
    assert drive_files(on) == drives
    assert on.run("ssh", f"web/{name}", "--", "cat /mnt/data/f").strip() == "kept"


def test_repair(crashing: Crashing) -> None:
    on = crashing.on
    ((name, body),) = instances(on).items()
    subprocess.run(
        ["virsh", "-q", "-c", on.uri, "destroy", f"{on.prefix}-{name}"], check=True, capture_output=True
    )
    crashing.carry_out("repair", "web")
    assert instances(on) == {name: body}
    assert on.fetch() == name


def test_a_rollout(crashing: Crashing) -> None:
    on = crashing.on
    ((name, body),) = instances(on).items()
    newer = WEB.replace("hostname > /srv/www/index.html", "echo newer > /srv/www/index.html")
    text = web_set(on, instances=1, standby=POOL, more=DISKS, user_data=newer)
    # Other checks, so that HAProxy is reloaded too.
    on.write("newer.yaml", text.replace("failures: 3", "failures: 4"))
    crashing.carry_out("rollout", str(on.root / "newer.yaml"))
    assert instances(on) == {name: body + 1}  # with drives an instance is made anew under its name
    assert on.fetch() == "newer"
    assert on.run("ssh", f"web/{name}", "--", "cat /mnt/data/f").strip() == "kept"


def test_what_a_killed_serve_left_is_taken_up_by_the_next_one(crashing: Crashing) -> None:
    on = crashing.on
    first = on.start("serve")
    assert first.stdout is not None
    first.stdout.readline()
    ((name, _),) = instances(on).items()
    subprocess.run(
        ["virsh", "-q", "-c", on.uri, "destroy", f"{on.prefix}-{name}"], check=True, capture_output=True
    )
    wait_until(lambda: instances_in(on, "in_service") == set(), 20, "serve has noticed")
    first.kill()
    first.communicate()
    with on.serving():
        wait_until(lambda: instances_in(on, "in_service") == {name}, 60, "the next one goes on")
    crashing.audit("serve")


def switch_off(on: Installation, name: str) -> None:
    """As if its QEMU had died."""
    command = ["virsh", "-q", "-c", on.uri, "destroy", f"{on.prefix}-{name}"]
    subprocess.run(command, check=True, capture_output=True)


def instances_in(on: Installation, phase: str) -> set[str]:
    return {str(row["name"]) for row in on.members("instance") if row["phase"] == phase}


def test_delete_and_nothing_is_left(crashing: Crashing) -> None:
    on = crashing.on
    drives = drive_files(on)
    crashing.carry_out("delete", "web")
    assert on.domains() == []
    assert on.processes() == []
    assert drive_files(on) == drives
    assert [name for name in on.volumes() if "-image-" not in name] == drives


def take_golden(on: Installation) -> None:
    """The same file again, until there is one of its model: where libvirt was still at what a killed one had asked
    for, the next one does not wait for that."""

    def is_taken() -> bool:
        on.run("apply", str(on.root / "forks.yaml"))
        models = {row["model"] for row in on.members("instance")}
        return bool(models & {one["model"] for one in on.json("image", "list", "--golden")})

    wait_until(is_taken, 60, "a golden image is taken")


def test_a_golden_image_is_taken(crashing: Crashing) -> None:
    """Of the same set without disks: with local storage nobody is forked."""
    on = crashing.on
    crashing.has_local_storage = False
    on.write("forks.yaml", web_set(on, instances=1))
    crashing.carry_out("apply", str(on.root / "forks.yaml"), then=lambda: take_golden(on))
    assert len(instances(on)) == 1
    (golden,) = on.json("image", "list", "--golden")
    assert golden["sets"] == ["web"]


def test_growth_by_a_fork(crashing: Crashing) -> None:
    """Killed in the middle, a fork is made again, or boots: what counts is that one more serves."""
    on = crashing.on
    before = instances(on)
    crashing.carry_out("scale-fork", "web", "2")
    assert len(instances(on)) == 2
    assert instances(on).items() >= before.items()
    wait_until(lambda: {on.fetch() for _ in range(4)} == set(instances(on)), 20, "both serve")


def test_a_rollout_removes_the_golden_image_of_the_old_model(crashing: Crashing) -> None:
    on = crashing.on
    (old,) = on.json("image", "list", "--golden")
    on.write("forks.yaml", web_set(on, instances=1, user_data=WEB + "touch /root/newer\n"))
    crashing.carry_out("rollout", str(on.root / "forks.yaml"), then=lambda: take_golden(on))
    assert old["model"] not in {one["model"] for one in on.json("image", "list", "--golden")}
    assert old["model"] not in {row["model"] for row in on.members("instance")}


def test_delete_and_no_golden_image_is_left(crashing: Crashing) -> None:
    on = crashing.on
    drives = drive_files(on)

    def look_again() -> None:
        """Of a set that is gone already, whoever looks next removes the golden image."""
        with on.serving():
            wait_until(lambda: not [name for name in on.volumes() if "-golden-" in name], 30, "it is removed")

    crashing.carry_out("delete", "web", then=look_again)
    assert on.domains() == []
    assert on.processes() == []
    assert [name for name in on.volumes() if "-image-" not in name] == drives


def test_every_kind_of_kill_point_has_killed_a_controller_and_nothing_leaked(crashing: Crashing) -> None:
    killed = {layer: set[str]() for layer in REACHED}
    for kind in crashing.kills:
        layer, _, rest = kind.partition(".")
        if layer in killed:
            killed[layer].add(rest.rpartition(" ")[0])
    assert {layer: calls - killed[layer] for layer, calls in REACHED.items() if calls - killed[layer]} == {}
    in_the_middle = {kind.removesuffix(" during") for kind in crashing.kills if kind.endswith(" during")}
    assert SLOW - in_the_middle == set()
    steps = Counter(kind.partition("/")[0] for kind in crashing.kills if "/" in kind)
    assert set(steps) == OPERATIONS
    print(f"kill points tried: {len(crashing.kills)}, leaks found: {len(crashing.leaks)}")
    assert crashing.leaks == []
