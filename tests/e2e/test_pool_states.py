"""Standby pools in every state on real guests: hibernated, mixed, changed (rows B2, B3, B10, B12)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import Installation, installation
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

# What boot a guest is in, written down during its setup.
REMEMBER_BOOT = "  steps:\n  - {run: cp /proc/sys/kernel/random/boot_id /root/boot_id}\n"


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance and two hibernated members; the tests of this module change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        text = web_set(made, instances=1, standby="{state: hibernated, max_ready: 3}")
        made.write("web.yaml", text.replace("readiness:\n", f"{REMEMBER_BOOT}readiness:\n"))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def test_pool_members_are_hibernated_after_their_setup(web: Installation) -> None:
    pool = web.status()["standby"]
    assert (pool["state"], pool["ready"], pool["health"]) == ("hibernated", 2, "healthy")
    assert pool["zones"] == {"a": {"hibernated": 2}}
    assert {(row["phase"], row["power"]) for row in web.members("standby")} == {("standby", "hibernated")}
    assert "the standby pool of web is full: 2 ready" in web.run("events", "web")


def test_a_claimed_member_goes_on_where_it_was_and_knows_the_time(web: Installation) -> None:
    pool = {row["name"] for row in web.members("standby")}
    web.run("scale", "web", "2")
    (claimed,) = [row for row in web.members("instance") if row["name"] in pool]
    assert (claimed["power"], claimed["in_rotation"]) == ("running", True)
    assert claimed["name"] in {web.fetch() for _ in range(6)}
    said = web.run(
        "ssh", f"web/{claimed['name']}", "--", "cat /root/boot_id /proc/sys/kernel/random/boot_id; date +%s"
    )
    then, now, clock = said.split()
    assert then == now
    assert abs(int(clock) - time.time()) < 5


def test_from_stopped_to_hibernated_goes_through_running(web: Installation) -> None:
    web.run("pool", "web", "--state", "stopped")
    before = web.status()["standby"]
    assert before["zones"] == {"a": {"stopped": 1}}
    said = web.run("pool", "web", "--state", "hibernated", expect=2)
    assert "cannot go from stopped to hibernated directly" in said
    assert "--state running" in said
    assert web.status()["standby"] == before
    for state in ("running", "hibernated"):
        web.run("pool", "web", "--state", state)
        assert web.status()["standby"]["zones"] == {"a": {state: 1}}


def test_a_mix_is_kept_in_its_shares_and_the_running_one_is_claimed_first(web: Installation) -> None:
    file = web.root / "web.yaml"
    mixed = file.read_text(encoding="utf-8").replace(
        "{state: hibernated, max_ready: 3}", "{state: {running: 50%, hibernated: 50%}, max_ready: 3}"
    )
    web.write("mixed.yaml", mixed)
    web.run("apply", str(web.root / "mixed.yaml"))
    assert web.status()["standby"]["zones"] == {"a": {"running": 1, "hibernated": 1}}
    (running,) = [row["name"] for row in web.members("standby") if row["power"] == "running"]
    web.run("scale", "web", "2")
    assert running in {row["name"] for row in web.members("instance")}


def test_the_cost_of_each_state_of_the_pool_is_shown(web: Installation) -> None:
    config = web.root / "config.toml"
    config.write_text(f"{config.read_text(encoding='utf-8')}\n[prices]\nvcpu_hour = 0.01\n", encoding="utf-8")
    shown = web.json("cost", "web")
    assert shown["instances"]["per_month"] == 2 * 7.3
    assert shown["standby"]["if"]["stopped"] == {"per_month": 0.0, "saves": shown["standby"]["per_month"]}
    assert "all stopped" in web.run("cost")


def test_a_pool_tells_that_it_cannot_be_filled_recovers_and_is_exhausted(web: Installation) -> None:
    good = web_set(web, instances=0, standby="{state: running, max_ready: 1}", name="spare", port=8082)
    web.write("spare.yaml", good.replace("    #!/bin/sh\n", "    #!/bin/sh\n    exit 7\n", 1))
    web.run("apply", str(web.root / "spare.yaml"), expect=1)
    pool = web.status("spare")["standby"]
    assert (pool["health"], pool["ready"]) == ("degraded", 0)
    assert "the standby pool of spare is degraded: spare-" in web.run("events", "spare")
    web.write("spare.yaml", good)
    web.run("apply", str(web.root / "spare.yaml"))
    assert web.status("spare")["standby"]["health"] == "healthy"
    assert "the standby pool of spare has recovered" in web.run("events", "spare")
    web.run("scale", "spare", "1")
    assert "the standby pool of spare is exhausted" in web.run("events", "spare")
    web.run("delete", "spare")


def test_deleting_the_set_leaves_no_saved_memory(web: Installation) -> None:
    web.run("pool", "web", "--state", "hibernated")
    assert saved_memory(web) == 1
    web.run("delete", "web")
    assert web.domains() == []
    assert saved_memory(web) == 0


def saved_memory(web: Installation) -> int:
    return len(list(Path("/var/lib/libvirt/qemu/save").glob(f"{web.prefix}-*")))
