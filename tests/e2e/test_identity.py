"""Every machine is itself and nobody else, and nothing of its seed is left on its host once it has read it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

# One line each: what nobody else may have. The copy of the seed is the guest's own, which its root alone may read.
FACTS = """\
cat /etc/machine-id
cat /etc/dropbear/*host_key | sha256sum
cat /sys/class/net/eth0/address
cat /var/lib/cloud/seed/nocloud/meta-data /var/lib/cloud/seed/nocloud/vendor-data | sha256sum
basename $(readlink /var/lib/cloud/instance)
cat /proc/sys/kernel/random/boot_id
hostname
"""


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance, two running pool members; the tests change it in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_set(made, instances=1, standby="{state: running, max_ready: 3}"))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def facts(web: Installation, row: dict[str, Any]) -> list[str]:
    return web.run("ssh", f"web/{row['name']}", "--", FACTS).splitlines()


def rows(web: Installation) -> list[dict[str, Any]]:
    return list(web.status()["members"])


def definition(web: Installation, row: dict[str, Any], *flags: str) -> str:
    command = ["virsh", "-c", web.uri, "dumpxml", *flags, row["domain"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def assert_no_seed(web: Installation) -> None:
    assert [name for name in web.volumes() if "seed" in name] == []
    for row in rows(web):
        assert "seed" not in definition(web, row, "--inactive")
        assert "seed" not in definition(web, row)


def assert_no_two_alike(columns: list[list[str]]) -> None:
    """Lists of facts, a machine each: no fact is told by two."""
    for values in zip(*columns, strict=True):
        assert len(set(values)) == len(columns), values
        assert all(values)


def test_no_two_machines_share_an_identity_in_service_or_reserve(web: Installation) -> None:
    found = rows(web)
    assert len(found) == 3
    told = [facts(web, row) for row in found]
    assert_no_two_alike(told)
    assert_no_two_alike([[row["address"], row["domain"]] for row in found])
    assert [one[-1] for one in told] == [row["name"] for row in found]


def test_nothing_of_a_seed_is_left_on_the_host(web: Installation) -> None:
    assert_no_seed(web)


def test_a_claimed_member_stays_who_it_was(web: Installation) -> None:
    before = {row["name"]: facts(web, row) for row in web.members("standby")}
    web.run("scale", "web", "2")
    (claimed,) = [row for row in web.members("instance") if row["name"] in before]
    assert facts(web, claimed) == before[claimed["name"]]


def test_a_reimaged_instance_is_a_new_machine_under_its_name_and_address(web: Installation) -> None:
    row = web.members("instance")[0]
    old = facts(web, row)
    others = [facts(web, one) for one in rows(web) if one["name"] != row["name"]]
    web.run("reimage", f"web/{row['name']}")
    new = facts(web, row)
    assert [left == right for left, right in zip(old, new, strict=True)] == [
        fact in (2, 6)
        for fact in range(7)  # its MAC and its name stay
    ]
    assert_no_two_alike([new, *others])
    assert_no_seed(web)


def test_without_its_seed_a_machine_comes_back_as_itself_from_every_state(web: Installation) -> None:
    row = web.members("instance")[0]
    before = facts(web, row)
    web.run("restart", f"web/{row['name']}")
    after = facts(web, row)
    assert [after[index] for index in (0, 1, 2, 3, 4, 6)] == [before[index] for index in (0, 1, 2, 3, 4, 6)]
    for state in ("hibernated", "stopped"):
        known = {one["name"]: one["incarnation"] for one in rows(web)}
        web.run("pool", "web", "--state", state)
        web.run("scale", "web", str(len(web.members("instance")) + 1))
        assert {name: one["incarnation"] for one in rows(web) if (name := one["name"]) in known} == known
    told = [facts(web, one) for one in web.members("instance")]
    assert_no_two_alike(told)
    assert_no_seed(web)
