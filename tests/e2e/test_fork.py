"""Machines that go on from a golden image: as themselves, with nothing of its source (rows D1, D9)."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_identity import assert_no_two_alike
from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

# Setup leaves a mark each time it runs; what a fork's random device says first, before it has a network, is kept.
SETUP = """\
echo set up >> /root/setups
cat > /etc/understudy/fork.d/60-random <<'END'
#!/bin/sh
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > /root/random
cut -d ' ' -f 1,22 /proc/$PPID/stat > /root/told_by
END
chmod +x /etc/understudy/fork.d/60-random
"""
USER_DATA = WEB + SETUP
TWENTY = 20
# One line each: what nobody else may have.
FACTS = """\
cat /etc/machine-id
cat /etc/dropbear/*host_key | sha256sum
cat /sys/class/net/eth0/address
cat /var/lib/cloud/seed/nocloud/meta-data /var/lib/cloud/seed/nocloud/vendor-data | sha256sum
ls /var/lib/cloud/instances
cat /proc/sys/kernel/random/boot_id
hostname
cat /etc/hostname
grep 127.0.1.1 /etc/hosts
ip -6 -o addr show dev eth0 scope link | tr -s ' ' | cut -d ' ' -f 4
cat /root/random 2> /dev/null; echo of $(hostname)
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
head -c 32 /var/lib/random-seed 2> /dev/null | od -An -tx1 | tr -d ' \\n'; echo of $(hostname)
"""
MACHINE_ID, KEY, MAC, SEED, INSTANCE, BOOT, NAME = range(7)
STAYS = (MACHINE_ID, KEY, MAC, SEED, INSTANCE, NAME, 7, 8, 9)


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance that booted; the tests change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", declared(made))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def declared(made: Installation, instances: int = 1, standby: str = "", fork: str = "") -> str:
    text = web_set(made, instances=instances, standby=standby, user_data=USER_DATA)
    return text.replace("setup:\n", f"setup:\n  fork: {fork}\n") if fork else text


def ssh(web: Installation, row: dict[str, Any], command: str) -> str:
    return web.run("ssh", f"web/{row['name']}", "--", command).strip()


def facts(web: Installation, row: dict[str, Any]) -> list[str]:
    return ssh(web, row, FACTS).splitlines()


def rows(web: Installation) -> list[dict[str, Any]]:
    return list(web.status()["members"])


def events(web: Installation, *kinds: str) -> list[dict[str, Any]]:
    return [one for one in web.json_lines("events", "web") if one["kind"] in kinds]


def definition(web: Installation, row: dict[str, Any]) -> str:
    command = ["virsh", "-c", web.uri, "dumpxml", row["domain"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def goldens(web: Installation) -> list[dict[str, Any]]:
    return list(web.json("image", "list", "--golden"))


def names_served(web: Installation, count: int) -> set[str]:
    return {web.fetch() for _ in range(count)}


def test_the_first_member_boots_and_a_golden_image_is_taken_of_it(web: Installation) -> None:
    (row,) = rows(web)
    assert not row["forked"]
    (golden,) = goldens(web)
    assert (golden["host"], golden["model"], golden["sets"], golden["image"], golden["source"]) == (
        "local",
        row["model"],
        ["web"],
        "micro:1",
        row["domain"],
    )
    assert golden["memory"] > 2**20
    assert 0 <= golden["age"] < 120
    assert row["model"] in web.run("image", "list", "--golden")
    (taken,) = events(web, "golden_taken")
    assert taken["member"] == row["name"]
    assert row["in_rotation"]


def test_cold_growth_is_forks_that_share_nothing(web: Installation) -> None:
    web.run("scale", "web", "5")
    found = rows(web)
    assert sorted(row["forked"] for row in found) == [False, True, True, True, True]
    told = [facts(web, row) for row in found]
    assert_no_two_alike(told)
    assert [one[NAME] for one in told] == [row["name"] for row in found]
    assert [one[INSTANCE].replace("-", "") for one, row in zip(told, found, strict=True) if row["forked"]] == [
        one[MACHINE_ID] for one, row in zip(told, found, strict=True) if row["forked"]
    ]
    documents = [definition(web, row) for row in found]
    for tag in ("uuid", "genid"):
        values = [text.partition(f"<{tag}>")[2].partition("<")[0] for text in documents]
        assert len(set(values)) == len(found), values
    assert {ssh(web, row, "cat /root/setups | wc -l; date +%Y; cat /run/understudy/phase") for row in found} == {
        f"1\n{time.gmtime().tm_year}\nin_service"
    }
    assert names_served(web, 15) == {row["name"] for row in found}
    assert len(events(web, "forked")) == 4
    assert "fork" in web.run("status", "web")


def test_forks_are_told_by_the_shell_that_waited_in_their_source(web: Installation) -> None:
    """Process and start of whoever ran `fork.d`: one and the same, before the source was frozen."""
    left = "cat /run/understudy.said.* 2> /dev/null; ls /run | grep wake; true"
    source, *_ = [row for row in rows(web) if not row["forked"]]
    assert ssh(web, source, left) == ""
    forks = [row for row in rows(web) if row["forked"]]
    assert len({ssh(web, row, "cat /root/told_by") for row in forks}) == 1
    for row in forks:
        (instance,) = ssh(web, row, "ls /var/lib/cloud/instances").split()
        assert ssh(web, row, left) == f"woken\nended {instance} 0"
        assert ssh(web, row, "stat -c %a /run/understudy.boot_id") == "644"


def test_among_twenty_forks_nothing_is_shared(web: Installation) -> None:
    web.run("scale", "web", str(TWENTY + 1))
    found = rows(web)
    assert sum(row["forked"] for row in found) == TWENTY
    with ThreadPoolExecutor(max_workers=4) as pool:
        told = list(pool.map(lambda row: facts(web, row), found))
    assert_no_two_alike(told)
    assert_no_two_alike([[row["address"], row["domain"], row["name"]] for row in found])
    assert [one[NAME] for one in told] == [row["name"] for row in found]
    web.run("scale", "web", "5")


def test_the_clock_of_a_fork_is_right(web: Installation) -> None:
    for row in rows(web):
        assert abs(float(ssh(web, row, "date +%s")) - time.time()) < 5


def test_a_fork_has_a_console_and_an_agent_of_its_own(web: Installation) -> None:
    row = next(row for row in rows(web) if row["forked"])
    ssh(web, row, "echo a word of $(hostname) > /dev/console")
    (log,) = (web.root / "volumes" / "consoles").glob(f"{row['domain']}.*")
    wait_until(lambda: f"a word of {row['name']}" in log.read_text(), 10, "it is in the fork's log")
    assert f"a word of {row['name']}" in web.run("console", f"web/{row['name']}", "--log")
    asked = ["virsh", "-c", web.uri, "qemu-agent-command", row["domain"], '{"execute": "guest-get-host-name"}']
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["return"]["host-name"] == row["name"]


def test_a_fork_comes_back_from_a_cold_boot_as_itself(web: Installation) -> None:
    row = next(row for row in rows(web) if row["forked"])
    before = facts(web, row)
    web.run("restart", f"web/{row['name']}")
    after = facts(web, row)
    assert [after[index] for index in STAYS] == [before[index] for index in STAYS]
    assert after[BOOT] != before[BOOT]
    assert ssh(web, row, "cat /root/setups | wc -l") == "1"
    assert row["name"] in names_served(web, 15)


def test_a_reimaged_fork_is_a_new_one(web: Installation) -> None:
    row = next(row for row in rows(web) if row["forked"])
    before = facts(web, row)
    others = [facts(web, one) for one in rows(web) if one["name"] != row["name"]]
    web.run("reimage", f"web/{row['name']}")
    (new,) = [one for one in rows(web) if one["name"] == row["name"]]
    assert (new["incarnation"], new["forked"]) == (row["incarnation"] + 1, True)
    after = facts(web, new)
    assert {index for index in STAYS if after[index] == before[index]} == {MAC, NAME, 7, 8, 9}
    assert_no_two_alike([after, *others])


@pytest.mark.parametrize("state", ["running", "hibernated", "stopped"])
def test_a_pool_is_filled_with_forks_that_serve_when_they_are_claimed(web: Installation, state: str) -> None:
    web.run("scale", "web", "1")
    web.run("pool", "web", "--state", state, "--max-ready", "3")
    reserve = web.members("standby")
    assert [(row["forked"], row["power"]) for row in reserve] == [(True, state)] * 2
    if state == "running":
        assert {ssh(web, row, "cat /run/understudy/phase") for row in reserve} == {"standby"}
    web.run("scale", "web", "2")
    claimed = [row for row in web.members("instance") if row["name"] in {one["name"] for one in reserve}]
    assert len(claimed) == 1
    assert ssh(web, claimed[0], "cat /run/understudy/phase; hostname") == f"in_service\n{claimed[0]['name']}"
    assert abs(float(ssh(web, claimed[0], "date +%s")) - time.time()) < 5
    assert claimed[0]["name"] in names_served(web, 8)


def test_a_damaged_golden_image_means_a_boot_and_one_reason(web: Installation) -> None:
    web.run("pool", "web", "--delete")
    web.run("scale", "web", "1")
    memory = next((web.root / "volumes").glob("*.mem"))
    with memory.open("r+b") as file:
        file.truncate(4096)
    before = {row["name"] for row in rows(web)}
    web.run("scale", "web", "3")
    assert [row["forked"] for row in rows(web) if row["name"] not in before] == [False, False]
    (reason,) = events(web, "fork_refused")
    assert "golden image" in reason["reason"]
    assert names_served(web, 9) == {row["name"] for row in rows(web)}


def test_without_forks_everybody_boots_and_nobody_is_disturbed(web: Installation) -> None:
    before = {row["name"]: row["incarnation"] for row in rows(web)}
    web.write("web.yaml", declared(web, instances=4, fork="false"))
    web.run("apply", str(web.root / "web.yaml"))
    found = {row["name"]: row for row in rows(web)}
    assert {name: found[name]["incarnation"] for name in before} == before
    assert [row["forked"] for name, row in found.items() if name not in before] == [False]


def test_deleting_the_set_leaves_nothing(web: Installation) -> None:
    web.run("delete", "web")
    assert [name for name in web.volumes() if "-image-" not in name] == []
    assert web.domains() == []
    assert goldens(web) == []
    assert "no golden images" in web.run("image", "list", "--golden")
