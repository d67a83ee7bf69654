"""From nothing: on a host that emulates, no more guests boot at once than it has CPUs, and the rest are forks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.installation import Installation
from tests.support.specs import count_cpus, web_set

pytestmark = [pytest.mark.guest, pytest.mark.alone]


def applied(site: Installation, more: int, fork: str = "true") -> list[dict[str, Any]]:
    """Rows of a set with that many instances more than the host has CPUs, all of which serve."""
    count = count_cpus(site) + more
    text = web_set(site, instances=count).replace("setup:\n", f"setup:\n  fork: {fork}\n")
    site.run("apply", str(site.write("web.yaml", text)))
    rows = site.members("instance")
    assert [row["in_rotation"] for row in rows] == [True] * count
    return rows


def most_at_once(site: Installation, booted: set[str]) -> int:
    """How many of these were between the start of their machine and the end of their setup at the same time."""
    steps = {"provisioning": 1, "ready": -1}
    found = [one for one in site.json_lines("events", "web") if one["kind"] in steps and one["member"] in booted]
    at_once, most = 0, 0
    for one in found:
        at_once += steps[one["kind"]]
        most = max(most, at_once)
    assert at_once == 0
    return most


def waits(site: Installation) -> list[str]:
    return [one["reason"] for one in site.json_lines("events", "web") if one["kind"] == "waits"]


def test_few_boot_at_once_and_the_rest_are_forks(site: Installation) -> None:
    rows, cpus = applied(site, more=3), count_cpus(site)
    booted = {row["name"] for row in rows if not row["forked"]}
    assert most_at_once(site, booted) <= cpus
    assert len(booted) < len(rows)
    assert waits(site)[0] == (
        f"not begun yet, 3 machines of web: waits for a CPU of host local: it emulates its guests, and has {cpus} "
        "for those that boot"
    )


def test_without_forks_all_are_made_a_few_at_a_time(site: Installation) -> None:
    rows, cpus = applied(site, more=1, fork="false"), count_cpus(site)
    assert not any(row["forked"] for row in rows)
    assert most_at_once(site, {row["name"] for row in rows}) <= cpus
    assert len(waits(site)) == 1
