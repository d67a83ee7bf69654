"""Standby pools in every state on real guests: hibernated, mixed, changed (rows B2, B3, B10, B12)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

# What boot a guest is in, written down during its setup; and a process that counts in its own memory, which no
# boot would start again.
COUNT = "while sleep 0.2; do n=$((n+1)); echo $n > /run/count; done"
# Each fork keeps its own.
KEEP = r"printf '#!/bin/sh\ncp /proc/sys/kernel/random/boot_id /root/boot_id\n' > /etc/understudy/fork.d/10-boot"
STEPS = f"""\
  steps:
  - {{run: cp /proc/sys/kernel/random/boot_id /root/boot_id}}
  - {{run: "{KEEP}; chmod 755 /etc/understudy/fork.d/10-boot"}}
  - {{run: "(setsid sh -c '{COUNT}' </dev/null >/dev/null 2>&1 & echo $! > /run/pid); sleep 2"}}
"""
LOOK = "cat /root/boot_id /proc/sys/kernel/random/boot_id; date +%s; cat /run/count"


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance and two hibernated members; the tests of this module change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        text = web_set(made, instances=1, standby="{state: hibernated, max_ready: 3}")
        made.write("web.yaml", text.replace("readiness:\n", f"{STEPS}readiness:\n"))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def test_pool_members_are_hibernated_after_their_setup(web: Installation) -> None:
    pool = web.status()["standby"]
    assert (pool["state"], pool["ready"], pool["health"]) == ("hibernated", 2, "healthy")
    assert pool["zones"] == {"a": {"hibernated": 2}}
    assert {(row["phase"], row["power"]) for row in web.members("standby")} == {("standby", "hibernated")}
    assert "the standby pool of web is full: 2 ready" in web.run("events", "web")


def test_a_claimed_member_goes_on_where_it_was_with_its_processes_and_knows_the_time(web: Installation) -> None:
    pool = {row["name"] for row in web.members("standby")}
    web.run("scale", "web", "2")
    (claimed,) = [row for row in web.members("instance") if row["name"] in pool]
    assert (claimed["power"], claimed["in_rotation"]) == ("running", True)
    assert claimed["name"] in {web.fetch() for _ in range(6)}
    then, now, clock, count = ssh(web, claimed, LOOK).split()
    assert then == now
    assert abs(int(clock) - time.time()) < 5
    assert int(count) > 1
    assert ssh(web, claimed, "cat /proc/$(cat /run/pid)/cmdline | tr '\\0' ' '").startswith(f"sh -c {COUNT}")
    assert int(ssh(web, claimed, "sleep 1; cat /run/count")) > int(count)


def test_from_stopped_to_hibernated_goes_through_running(web: Installation) -> None:
    web.run("pool", "web", "--state", "stopped")
    before = web.status()["standby"]
    assert before["zones"] == {"a": {"stopped": 1}}
    said = web.run("pool", "web", "--state", "hibernated", expect=2)
    assert "cannot go from stopped to hibernated directly" in said
    assert "--state running" in said
    assert web.status()["standby"] == before
    for state in ("running", "hibernated", "running"):
        web.run("pool", "web", "--state", state)
        assert web.status()["standby"]["zones"] == {"a": {state: 1}}


def test_a_ready_member_goes_to_every_state_with_the_machine_it_has(web: Installation) -> None:
    """Off and on again it boots from its disk; from its saved memory it goes on in the boot it was in."""
    (before,) = web.members("standby")
    boots = [ssh(web, before, "cat /proc/sys/kernel/random/boot_id")]
    for state in ("stopped", "running", "hibernated", "running"):
        web.run("pool", "web", "--state", state)
        (row,) = web.members("standby")
        assert (row["name"], row["incarnation"]) == (before["name"], before["incarnation"])
        assert (row["phase"], row["power"], row["parked"]) == ("standby", state, state)
        if state == "running":
            boots.append(ssh(web, row, "cat /proc/sys/kernel/random/boot_id"))
    first, after_boot, resumed = boots
    assert first != after_boot == resumed


def test_a_mix_is_kept_in_its_shares_and_claimed_from_the_fastest(web: Installation) -> None:
    file = web.root / "web.yaml"
    mixed = file.read_text(encoding="utf-8").replace(
        "{state: hibernated, max_ready: 3}",
        "{state: {running: 34%, hibernated: 33%, stopped: 33%}, max_ready: 4}",
    )
    web.write("mixed.yaml", mixed)
    web.run("apply", str(web.root / "mixed.yaml"))
    one_each = {"running": 1, "hibernated": 1, "stopped": 1}
    pool = web.json("pool", "web")
    assert (pool["states"], pool["zones"], pool["ready"]) == (one_each, {"a": one_each}, 3)
    assert "zone a: 1 hibernated, 1 running, 1 stopped" in web.run("pool", "web")
    parked = {row["name"]: row["power"] for row in web.members("standby")}
    web.run("scale", "web", "4")
    claims = [one["member"] for one in events(web, "web", "claim_served") if one["member"] in parked]
    assert [parked[name] for name in claims] == ["running", "hibernated", "stopped"]
    assert set(claims) <= {web.fetch() for _ in range(12)}
    web.run("pool", "web", "--max-ready", "2", "--state", "running")
    web.run("scale", "web", "1")


def test_the_cost_of_each_state_of_the_pool_is_shown(web: Installation) -> None:
    config = web.root / "config.toml"
    config.write_text(f"{config.read_text(encoding='utf-8')}\n[prices]\nvcpu_hour = 0.01\n", encoding="utf-8")
    shown = web.json("cost", "web")
    assert shown["instances"]["per_month"] == 7.3
    assert shown["standby"]["if"]["stopped"] == {"per_month": 0.0, "saves": shown["standby"]["per_month"]}
    assert "all stopped" in web.run("cost")


def test_what_becomes_of_a_pool_is_told_by_name(web: Installation) -> None:
    """Every row of B13; and B11: health with its reason, and growing pauses."""
    good = web_set(web, instances=0, standby="{state: running, max_ready: 1}", name="spare", port=8082)
    web.write("spare.yaml", good.replace("    #!/bin/sh\n", "    #!/bin/sh\n    exit 7\n", 1))
    web.run("apply", str(web.root / "spare.yaml"), expect=1)
    with web.serving():
        wait_until(lambda: web.status("spare")["members"][0]["failures"] >= 3, 90, "it is tried again")
        pool = web.json("pool", "spare")
    assert (pool["health"], pool["ready"]) == ("degraded", 0)
    assert "user-data script failed with exit status 7" in pool["reason"]
    (degraded,) = events(web, "spare", "pool_degraded")
    assert "the standby pool of spare is degraded: spare-" in degraded["reason"]
    first, second = pauses(web, "spare")[:2]
    assert first >= 1
    assert second >= 2

    web.write("spare.yaml", good)
    web.run("apply", str(web.root / "spare.yaml"))
    assert web.json("pool", "spare")["health"] == "healthy"
    web.run("scale", "spare", "2")
    told = {one["kind"]: one["reason"] for one in events(web, "spare")}
    assert told["settings_changed"] == "spare was changed: instances 0 -> 2"
    assert "has recovered" in told["pool_recovered"]
    assert told["pool_full"] == "the standby pool of spare is full: 1 ready"
    assert told["claim_served"].endswith(" from the standby pool of spare")
    assert told["claim_cold"] == "creating an instance of spare cold: the standby pool is exhausted"
    assert told["pool_exhausted"] == "the standby pool of spare is exhausted: no ready member is left"
    web.run("delete", "spare")


def test_deleting_the_set_leaves_no_saved_memory(web: Installation) -> None:
    web.run("pool", "web", "--state", "hibernated")
    assert saved_memory(web) == 1
    web.run("delete", "web")
    assert web.domains() == []
    assert saved_memory(web) == 0


def saved_memory(web: Installation) -> int:
    return len(list(Path("/var/lib/libvirt/qemu/save").glob(f"{web.prefix}-*")))


def ssh(web: Installation, row: dict[str, Any], command: str) -> str:
    return web.run("ssh", f"web/{row['name']}", "--", command).strip()


def events(web: Installation, name: str, kind: str = "") -> list[dict[str, Any]]:
    return [one for one in web.json_lines("events", name) if kind in ("", one["kind"])]


def pauses(web: Installation, name: str) -> list[float]:
    """Seconds from each failure to the next try."""
    tries = [one for one in events(web, name) if one["kind"] in ("failed", "creating")]
    return [
        after["at"] - before["at"]
        for before, after in pairwise(tries)
        if (before["kind"], after["kind"]) == ("failed", "creating")
    ]
