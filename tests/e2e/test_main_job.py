"""The main job on real guests, through the command line: rows A1 to A8, A12, B1 to B7, B12, D6."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import web_set

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """Two instances and two stopped pool members; the tests of this module change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_set(made, instances=2, standby="{state: stopped, max_ready: 4}"))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def names(rows: list[dict[str, object]]) -> set[str]:
    return {str(row["name"]) for row in rows}


def answers(web: Installation, count: int) -> set[str]:
    return {web.fetch() for _ in range(count)} - {""}


def test_apply_brings_every_instance_behind_one_address(web: Installation) -> None:
    status = web.status()
    assert status["converged"] is True
    assert status["instances"] == {"desired": 2, "in_service": 2}
    assert answers(web, 8) == names(web.members("instance"))
    assert all(row["in_rotation"] for row in web.members("instance"))


def test_pool_members_are_set_up_first_and_then_stopped(web: Installation) -> None:
    pool = web.status()["standby"]
    assert (pool["target"], pool["ready"], pool["health"]) == (2, 2, "healthy")
    assert pool["zones"] == {"a": {"stopped": 2}}
    assert {(row["phase"], row["power"]) for row in web.members("standby")} == {("standby", "stopped")}


def test_applying_the_same_file_again_changes_nothing(web: Installation) -> None:
    before = web.status()["members"]
    web.run("apply", str(web.root / "web.yaml"))
    assert web.status()["members"] == before
    assert "nothing to do" in web.run("apply", str(web.root / "web.yaml"), "--dry-run")


def test_overlays_are_private_and_the_image_is_read_only(web: Installation) -> None:
    volumes = web.root / "volumes"
    image = next(volumes.glob(f"{web.prefix}-image-*.qcow2"))
    assert image.stat().st_mode & 0o777 == 0o444
    assert image.stat().st_uid == 0
    overlays = [path for path in volumes.glob("*.qcow2") if path != image]
    assert len({path.name.partition(".")[0] for path in overlays if "-golden-" not in path.name}) == 4
    # QEMU's group reads the one that is frozen.
    assert all(path.stat().st_mode & 0o037 == 0 for path in overlays)
    assert sum(path.stat().st_mode & 0o070 != 0 for path in overlays) == 2  # under both its names
    (memory,) = volumes.glob("*.mem")
    assert memory.stat().st_mode & 0o777 == 0o400


def test_scale_out_takes_the_very_machine_that_was_in_the_stopped_pool(web: Installation) -> None:
    addresses = {row["name"]: row["address"] for row in web.members("standby")}
    before = uuids(web)
    said = web.run("scale", "web", "3")
    (claimed,) = [row for row in web.members("instance") if row["name"] in addresses]
    assert claimed["address"] == addresses[claimed["name"]]
    assert f"claimed {claimed['name']} from the standby pool" in said
    assert uuids(web) == before
    assert answers(web, 12) == names(web.members("instance"))
    assert web.status()["standby"]["ready"] == 1


def test_growth_beyond_the_pool_goes_cold_and_says_why(web: Installation) -> None:
    pool = names(web.members("standby"))
    said = web.run("scale", "web", "5")
    assert pool <= names(web.members("instance"))
    assert "cold: the standby pool is exhausted" in said
    assert web.status()["instances"]["in_service"] == 5


def test_scale_in_removes_by_policy_and_the_pool_refills(web: Installation) -> None:
    newest = {row["name"] for row in sorted(web.members("instance"), key=_age)[-3:]}
    said = web.run("scale", "web", "2")
    assert not newest & names(web.status()["members"])
    assert "draining" in said
    pool = web.status()["standby"]
    assert (pool["target"], pool["ready"]) == (2, 2)
    assert answers(web, 8) == names(web.members("instance"))


def test_reimage_keeps_name_and_address_and_drops_everything_else(web: Installation) -> None:
    before = web.members("instance")[0]
    where = f"web/{before['name']}"
    web.run("ssh", where, "--", "touch /root/kept")
    old = uuids(web)[before["domain"]], ssh(web, where, "cat /etc/machine-id")
    web.run("reimage", where)
    after = next(row for row in web.members("instance") if row["name"] == before["name"])
    assert after["address"] == before["address"]
    assert after["incarnation"] == before["incarnation"] + 1
    assert after["in_rotation"]
    assert ssh(web, where, "ls /root") == ""
    assert uuids(web)[before["domain"]] != old[0]
    assert ssh(web, where, "cat /etc/machine-id") != old[1]
    overlays = [name for name in web.volumes() if name.startswith(f"{before['domain']}.")]
    assert {name.split(".")[1] for name in overlays} == {str(after["incarnation"])}


def test_restart_keeps_everything(web: Installation) -> None:
    row = web.members("instance")[1]
    where = f"web/{row['name']}"
    web.run("ssh", where, "--", "echo precious > /root/kept && sync")
    web.run("restart", where)
    assert ssh(web, where, "cat /root/kept") == "precious"
    assert ssh(web, where, "wc -l < /srv/www/boots") == "2"
    after = next(one for one in web.members("instance") if one["name"] == row["name"])
    assert (after["incarnation"], after["in_rotation"]) == (row["incarnation"], True)


def test_a_stopped_instance_stays_off_until_it_is_started(web: Installation) -> None:
    row = web.members("instance")[1]
    where = f"web/{row['name']}"
    with web.serving():
        web.run("stop", where)
        web.run("apply", str(web.root / "web.yaml"))
        seen = next(one for one in web.members("instance") if one["name"] == row["name"])
        assert (seen["phase"], seen["power"], seen["in_rotation"]) == ("stopped", "stopped", False)
        assert row["name"] not in answers(web, 8)
        assert "is stopped already" in web.run("stop", where, expect=2)
        web.run("start", where)
    assert ssh(web, where, "cat /root/kept") == "precious"
    assert row["name"] in answers(web, 8)


def test_serve_heals_carries_out_wishes_and_follows_a_guests_own_restart(web: Installation) -> None:
    with web.serving():
        row = web.members("instance")[0]
        kill_guest(row["domain"])
        wait_until(lambda: phase(web, row) != "in_service", 10, "the kill is noticed")
        wait_until(lambda: phase(web, row) == "in_service", 90, "the machine is started again")

        said = web.run("scale", "web", "3")
        assert "claimed" in said

        web.run(
            "ssh", f"web/{row['name']}", "--", "echo here > /root/own; sync; (sleep 0.2; reboot) >/dev/null 2>&1 &"
        )
        wait_until(lambda: phase(web, row) == "starting", 15, "it leaves rotation by itself")
        wait_until(lambda: phase(web, row) == "in_service", 90, "and comes back by itself")
        assert ssh(web, f"web/{row['name']}", "cat /root/own") == "here"
        assert web.status()["converged"]


def test_serve_starts_a_killed_balancer_again(web: Installation) -> None:
    with web.serving():
        pid = int((web.root / "haproxy" / "haproxy.pid").read_text())
        subprocess.run(["kill", "-9", str(pid)], check=True)
        wait_until(lambda: web.fetch() != "", 15, "the address answers again")
        assert answers(web, 12) == names(web.members("instance"))


def test_running_pool_serves_a_claim_without_a_boot(web: Installation) -> None:
    web.run("pool", "web", "--state", "running", "--max-ready", "4")
    member = web.members("standby")[0]
    assert (member["power"], member["in_rotation"]) == ("running", False)
    process = process_of(member["domain"])
    web.run("scale", "web", "4")
    assert member["name"] in names(web.members("instance"))
    assert process_of(member["domain"]) == process
    assert member["name"] in answers(web, 16)


def test_remove_takes_this_instance_and_the_set_is_one_smaller(web: Installation) -> None:
    gone = web.members("instance")[2]["name"]
    web.run("remove", f"web/{gone}")
    assert web.status()["instances"] == {"desired": 3, "in_service": 3}
    assert gone not in names(web.status()["members"])


def test_no_two_machines_share_an_identity(web: Installation) -> None:
    rows = web.members("instance")
    found = [ssh(web, f"web/{row['name']}", _IDENTITY).split() for row in rows]
    for values in zip(*found, strict=True):
        assert len(set(values)) == len(rows)
    assert len({row["address"] for row in web.status()["members"]}) == len(web.status()["members"])


_IDENTITY = (
    "cat /etc/machine-id; hostname; cat /sys/class/net/eth0/address; "
    "cat /etc/dropbear/*host_key | sha256sum | cut -c1-64"
)


def test_nothing_secret_is_readable_by_others(web: Installation) -> None:
    private = web.root / "private"
    assert private.stat().st_mode & 0o777 == 0o700
    for file in (private / "keys").glob("*"):
        if file.suffix != ".pub":
            assert file.stat().st_mode & 0o777 == 0o600
    assert (web.root / "haproxy").stat().st_mode & 0o777 == 0o700
    assert list((web.root / "volumes").glob("*.seed.iso")) == []
    files = [path for path in (web.root / "volumes").rglob("*") if path.name.startswith(f"{web.prefix}-web-")]
    assert {path.parent.name for path in files} == {"volumes", "consoles"}
    # QEMU's group reads the overlay that is frozen in a golden image.
    assert all(path.stat().st_mode & (0o077 if path.stat().st_nlink == 1 else 0o037) == 0 for path in files)


def test_delete_leaves_nothing(web: Installation) -> None:
    web.run("delete", "web")
    assert web.json("status") == []
    assert web.domains() == []
    assert [name for name in web.volumes() if "-image-" not in name] == []
    wait_until(lambda: web.processes() == [], 10, "no process is left")
    web.run("image", "remove", "micro")
    assert web.volumes() == []
    assert list((web.root / "volumes").iterdir()) == []
    assert list((web.root / "images").iterdir()) == []


# ---- looking ---------------------------------------------------------------------------------------------


def _age(row: dict[str, object]) -> float:
    """Instances are compared by when they were made: names carry no order, incarnations neither."""
    return float(str(row["created_at"]))


def phase(web: Installation, row: dict[str, object]) -> str:
    return next(str(one["phase"]) for one in web.status()["members"] if one["name"] == row["name"])


def ssh(web: Installation, where: str, command: str) -> str:
    return web.run("ssh", where, "--", command).strip()


def uuids(web: Installation) -> dict[str, str]:
    found = {}
    for name in web.domains():
        done = subprocess.run(
            ["virsh", "-c", web.uri, "domuuid", name], capture_output=True, text=True, check=True
        )
        found[name] = done.stdout.strip()
    return found


def process_of(domain: object) -> int:
    """Process id of the machine's QEMU."""
    done = subprocess.run(["pgrep", "-f", f"guest={domain},"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def kill_guest(domain: object) -> None:
    subprocess.run(["kill", "-9", str(process_of(domain))], check=True)
