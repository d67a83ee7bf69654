"""Guests know whether they stand by or serve; hooks at claim and at drain; steps are told live (row D2)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

STEPS = "  steps:\n  - {run: echo begins; sleep 3; echo ends}\n"
# What was claimed is counted on disk; a guest with one mark hangs, with the other refuses. What it knew at its
# drain, it serves.
CLAIM = (
    "echo $UNDERSTUDY_PHASE $UNDERSTUDY_MEMBER $UNDERSTUDY_SET >> /root/claims; "
    "test ! -e /root/hang || sleep 600; test ! -e /root/broken"
)
DRAIN = "echo $UNDERSTUDY_PHASE $(cat /run/understudy/phase) > /srv/www/drained; sleep 4"


def hooks(on_drain: str, timeout: str) -> str:
    return f"hooks:\n  on_claim: ['{CLAIM}']\n  on_drain: ['{on_drain}']\n  timeout: {timeout}\n"


def web_with(made: Installation, on_drain: str = DRAIN, timeout: str = "20s") -> str:
    text = web_set(made, instances=1, standby="{state: running, max_ready: 4}", more=hooks(on_drain, timeout))
    return text.replace("readiness:\n", f"{STEPS}readiness:\n")


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance and three running pool members, made by the first test; the tests change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_with(made))
        yield made


def ssh(web: Installation, row: dict[str, Any], command: str) -> str:
    return web.run("ssh", f"web/{row['name']}", "--", command).strip()


def phase_of(web: Installation, row: dict[str, Any]) -> str:
    return ssh(web, row, "cat /run/understudy/phase; ls -A /run/understudy")


def events(web: Installation, *kinds: str) -> list[dict[str, Any]]:
    lines = web.run("events", "web", "--json").splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] in kinds]


def fetch_directly(row: dict[str, Any], path: str) -> str:
    """From the machine itself, past the balancer."""
    url = f"http://{row['address']}:20080{path}"
    return subprocess.run(
        ["curl", "-sf", "-m", "2", url], capture_output=True, text=True, check=False
    ).stdout.strip()


def test_a_step_is_told_while_it_still_runs(web: Installation) -> None:
    applying = web.start("apply", str(web.root / "web.yaml"))
    following = web.start("events", "web", "--follow", "--json")
    try:
        assert following.stdout is not None
        told = (json.loads(line) for line in following.stdout)
        first = next(event for event in told if event["kind"] == "step_output")
        assert first["reason"] == "begins"
        assert applying.poll() is None
        mine = [
            one for one in events(web, "step_started", "step_done", "ready") if one["member"] == first["member"]
        ]
        assert [one["reason"] for one in mine] == [
            f"step 1 of 1 of {first['member']}: run 'echo begins; sleep 3; echo ends'"
        ]
    finally:
        following.terminate()
        following.communicate(timeout=30)
        said, _ = applying.communicate(timeout=200)
    assert applying.returncode == 0, said
    done = [one["reason"] for one in events(web, "step_done") if one["member"] == first["member"]]
    assert [reason.partition("done after ")[0] for reason in done] == [f"step 1 of 1 of {first['member']}: "]
    assert float(done[0].split()[-2]) >= 3
    assert "begins\n" in web.run("events", "web")


def test_instances_and_reserve_read_where_they_are(web: Installation) -> None:
    (instance,) = web.members("instance")
    assert phase_of(web, instance) == "in_service\nphase"
    assert ssh(web, instance, "cat /root/claims") == f"in_service {instance['name']} web"
    reserve = web.members("standby")
    assert {row["told"] for row in reserve} == {"standby"}
    assert {phase_of(web, row) for row in reserve} == {"standby\nphase"}
    assert ssh(web, reserve[0], "ls /root") == ""


def test_a_claimed_member_reads_that_it_serves_and_ran_its_hook_once(web: Installation) -> None:
    pool = {row["name"] for row in web.members("standby")}
    web.run("scale", "web", "2")
    (claimed,) = [row for row in web.members("instance") if row["name"] in pool]
    assert phase_of(web, claimed) == "in_service\nphase"
    assert ssh(web, claimed, "cat /root/claims") == f"in_service {claimed['name']} web"
    assert claimed["in_rotation"]


def test_a_restart_tells_it_again_and_is_no_new_claim(web: Installation) -> None:
    row = max(web.members("instance"), key=lambda row: float(row["created_at"]))
    boot = ssh(web, row, "cat /proc/sys/kernel/random/boot_id")
    web.run("restart", f"web/{row['name']}")
    assert ssh(web, row, "cat /proc/sys/kernel/random/boot_id") != boot
    assert phase_of(web, row) == "in_service\nphase"
    assert ssh(web, row, "wc -l < /root/claims") == "1"


def test_a_claim_whose_hook_fails_goes_to_the_next_member_and_says_why(web: Installation) -> None:
    first, second = sorted(web.members("standby"), key=lambda row: float(row["created_at"]))
    before = {row["name"] for row in web.members("instance")}
    ssh(web, first, "touch /root/broken")
    web.run("scale", "web", "3")
    assert {row["name"] for row in web.members("instance")} == {*before, second["name"]}
    (failed,) = events(web, "claim_failed")
    assert failed["member"] == first["name"]
    assert f"{first['name']} is not claimed: on_claim of {first['name']} failed" in failed["reason"]
    assert "status 1" in failed["reason"]
    (spare,) = web.members("standby")
    assert spare["name"] not in (first["name"], second["name"])


def test_a_drain_tells_the_guest_and_waits_for_its_hook(web: Installation) -> None:
    victim = max(web.members("instance"), key=lambda row: float(row["created_at"]))
    scaling = web.start("scale", "web", "2")
    try:
        wait_until(lambda: fetch_directly(victim, "/drained"), 60, "the guest says that it is drained")
        assert fetch_directly(victim, "/drained") == "draining draining"
        (row,) = [row for row in web.members("instance") if row["name"] == victim["name"]]
        assert (row["phase"], row["power"], row["in_rotation"]) == ("draining", "running", False)
        assert victim["name"] not in {web.fetch() for _ in range(6)}
    finally:
        said, _ = scaling.communicate(timeout=120)
    assert scaling.returncode == 0, said
    (done,) = [
        one for one in events(web, "hook_done") if one["reason"].startswith(f"on_drain of {victim['name']}")
    ]
    (gone,) = [one for one in events(web, "deleted") if one["member"] == victim["name"]]
    assert done["at"] < gone["at"]
    assert float(done["reason"].split()[-2]) >= 4


def test_other_hooks_restart_nothing_and_one_that_hangs_ends_in_time(web: Installation) -> None:
    before = [(row["name"], row["incarnation"], row["since"]) for row in web.members("instance")]
    changed = web_with(web, on_drain="sleep 600", timeout="2s").replace("instances: 1", "instances: 2")
    web.write("web.yaml", changed)
    web.run("apply", str(web.root / "web.yaml"))
    assert [(row["name"], row["incarnation"], row["since"]) for row in web.members("instance")] == before
    victim = max(web.members("instance"), key=lambda row: float(row["created_at"]))
    web.run("scale", "web", "1")
    (failed,) = events(web, "hook_failed")
    assert failed["reason"] == f"on_drain of {victim['name']} was not done within 2 s: 'sleep 600'"
    assert victim["name"] not in {row["name"] for row in web.status()["members"]}


def test_a_claim_whose_hook_hangs_goes_to_the_next_member_in_time(web: Installation) -> None:
    first, second = sorted(web.members("standby"), key=lambda row: float(row["created_at"]))[:2]
    ssh(web, first, "touch /root/hang")
    web.run("scale", "web", "2")
    assert second["name"] in {row["name"] for row in web.members("instance")}
    failed = events(web, "claim_failed")[-1]
    assert failed["member"] == first["name"]
    assert f"on_claim of {first['name']} was not done within 2 s" in failed["reason"]
    assert first["name"] not in {row["name"] for row in web.status()["members"]}
