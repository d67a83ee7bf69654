"""A changed model on real guests: the pool first, then the instances; and one that fails (row D5)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from orchestrator.models.naming import image_volume
from tests.support.following import Event, following
from tests.support.installation import Installation
from tests.support.specs import WEB, room_for, web_set
from tests.support.traffic import traffic

pytestmark = pytest.mark.guest

NEW_WEB = WEB.replace("httpd -p", "echo second edition > /srv/www/edition\nhttpd -p")


def test_a_changed_model_rolls_through_pool_and_set_without_a_failed_request(site: Installation) -> None:
    file = str(site.write("web.yaml", web_set(site, instances=2, standby="{state: stopped, max_ready: 3}")))
    site.run("apply", file)
    old = {row["name"] for row in site.status()["members"]}
    known = site.json_lines("events", "web")[-1]["id"]

    site.write("web.yaml", web_set(site, instances=2, standby="{state: stopped, max_ready: 3}", user_data=NEW_WEB))
    previewed = site.run("apply", file, "--dry-run")
    assert "rolling out a new model to web, image micro:1" in previewed
    assert "at most 3 instances, at least 2 in service" in previewed
    assert {row["name"] for row in site.status()["members"]} == old
    with traffic(site.endpoint) as client:
        said = site.run("apply", file)
    assert client.failed() == []
    assert len(client.requests()) > 50
    assert "2 instances of web are of the new model, image micro:1" in said

    status = site.status()
    assert status["converged"]
    assert status["rollout"] == {"state": "none", "updated": 2, "stale": 0, "reason": ""}
    assert not old & {row["name"] for row in status["members"]}
    assert client.instances() == {row["name"] for row in site.members("instance")} | (old & client.instances())
    assert {site.fetch("/edition") for _ in range(4)} == {"second edition"}

    events = [event for event in site.json_lines("events", "web") if event["id"] > known]
    assert_pool_came_first(events, old)
    assert_a_new_one_served_before_each_old_one_left(events, old)


def assert_pool_came_first(events: list[dict[str, str]], old: set[str]) -> None:
    kinds = [event["kind"] for event in events]
    renewed = next(
        number for number, event in enumerate(events) if event["kind"] == "standby" and event["member"] not in old
    )
    first = next(number for number, event in enumerate(events) if "replacing" in event["reason"])
    assert kinds.index("rollout_started") < renewed < first < kinds.index("rollout_done")
    assert events[first]["kind"] == "claim_served"


def assert_a_new_one_served_before_each_old_one_left(events: list[dict[str, str]], old: set[str]) -> None:
    serving = 2
    for event in events:
        if event["kind"] == "in_service":
            serving += 1
        if event["kind"] == "retired" and event["reason"].startswith("replacing"):
            assert event["member"] in old
            serving -= 1
            assert serving >= 2
    assert serving == 2


def test_a_newer_version_of_the_image_rolls_out_without_a_failed_request(
    site: Installation, micro_image: Path
) -> None:
    """The same guest on a disk that is a little larger, so that it is another image."""
    file = str(site.write("web.yaml", web_set(site, instances=2)))
    site.run("apply", file)
    old = {row["name"] for row in site.members("instance")}
    newer = site.root / "newer.qcow2"
    shutil.copy(micro_image, newer)
    subprocess.run(["qemu-img", "resize", "-q", str(newer), "+1M"], check=True)
    site.run("image", "add", "micro", str(newer))
    assert site.status()["newer_image"] == "micro:2"
    assert "nothing to remove" in site.run("image", "prune")
    with traffic(site.endpoint) as client:
        said = site.run("apply", file)
    assert client.failed() == []
    assert len(client.requests()) > 50
    assert "2 instances of web are of the new model, image micro:2" in said
    status = site.status()
    assert (status["converged"], status["image"], status["newer_image"]) == (True, "micro:2", None)
    rows = site.members("instance")
    assert len(rows) == 2
    assert not old & {row["name"] for row in rows}
    assert client.instances() & {row["name"] for row in rows}
    digest = site.json("image", "show", "micro:2")["digest"]
    assert {disk for row in rows for disk in base_disks(site, row["domain"])} == {
        image_volume(site.prefix, digest)
    }
    assert "micro:1 is removed" in site.run("image", "prune")


def base_disks(site: Installation, domain: str) -> set[str]:
    """Names of the images that a machine's disk is written over."""
    listed = subprocess.run(
        ["virsh", "-q", "-c", site.uri, "domblklist", domain], capture_output=True, text=True, check=True
    ).stdout
    overlay = next(line.split()[1] for line in listed.splitlines() if line.split()[1].endswith(".qcow2"))
    said = subprocess.run(
        ["qemu-img", "info", "-U", "--backing-chain", "--output=json", overlay],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {Path(layer["filename"]).name for layer in json.loads(said)}
    return {name for name in names if "-image-" in name}


def test_a_new_model_that_fails_stops_and_the_old_file_goes_back(site: Installation) -> None:
    good, broken = web_set(site, instances=2), "#!/bin/sh\necho cannot find the database >&2\nexit 3\n"
    file = str(site.write("web.yaml", good))
    site.run("apply", file)
    old = {row["name"] for row in site.members("instance")}

    site.write("broken.yaml", web_set(site, instances=2, user_data=broken))
    with traffic(site.endpoint) as client:
        said = site.run("apply", str(site.root / "broken.yaml"), expect=1)
        assert "the rollout of web is stopped" in said
        assert "apply the file of before" in said
        assert "user-data script failed with exit status 3" in said
        status = site.status()
        assert (status["rollout"]["state"], status["rollout"]["stale"]) == ("stopped", 2)
        assert "exit status 3" in status["rollout"]["reason"]
        assert not status["converged"]
        assert "rollout: stopped" in site.run("status", "web")
        serving = {row["name"] for row in status["members"] if row["in_rotation"]}
        assert serving == old

        site.run("apply", file)
    assert client.failed() == []
    assert client.instances() == old
    status = site.status()
    assert (status["converged"], status["rollout"]["state"]) == (True, "none")
    assert {row["name"] for row in status["members"]} == old
    assert {row["incarnation"] for row in status["members"]} == {1}
    stops = [event for event in site.json_lines("events", "web") if event["kind"] == "rollout_stopped"]
    assert len(stops) == 1


def test_going_back_in_the_middle_of_a_rollout_waits_for_no_pool_and_costs_no_request(site: Installation) -> None:
    pool = "{state: stopped, max_ready: 3}"
    first = str(site.write("first.yaml", web_set(site, instances=2, standby=pool)))
    second = str(site.write("second.yaml", web_set(site, instances=2, standby=pool, user_data=NEW_WEB)))
    site.run("apply", first)
    old = {row["name"] for row in site.members("instance")}
    with traffic(site.endpoint) as client:
        with following(site) as told:
            applying = site.start("apply", second)
            told.wait(is_replaced, 150, "an instance of the older model leaves")
            applying.send_signal(signal.SIGINT)
            applying.communicate(timeout=60)
        known = site.json_lines("events", "web")[-1]["id"]
        serving = {row["name"] for row in site.members("instance") if row["phase"] == "in_service"}
        assert serving & old
        assert serving - old
        said = site.run("apply", first)
    assert client.failed() == []
    assert "2 instances of web are of the model of before, image micro:1" in said
    status = site.status()
    assert (status["converged"], status["rollout"]["state"], status["standby"]["ready"]) == (True, "none", 1)
    rows = site.members("instance")
    assert serving & old <= {row["name"] for row in rows if row["incarnation"] == 1}
    assert not (serving - old) & {row["name"] for row in rows}
    assert site.fetch("/edition") == ""

    events = [event for event in site.json_lines("events", "web") if event["id"] > known]
    kinds = [event["kind"] for event in events]
    # What replaces the new one, made cold or from what was under way, serves before the pool is renewed.
    assert kinds.index("rollout_back") < kinds.index("in_service") < kinds.index("standby")
    assert any(event["kind"] == "retired" and "replacing" in event["reason"] for event in events)
    assert "rollout_done" in kinds


def is_replaced(event: Event) -> bool:
    return event["kind"] == "retired" and str(event["reason"]).startswith("replacing")


def test_without_room_growth_waits_with_its_reason_and_shrinking_goes_on(site: Installation) -> None:
    """Row D8: the host holds two machines; a new model needs room for a third, unless the set gets smaller."""
    site.configure(limits=room_for(site, 2.5))
    file = str(site.write("web.yaml", web_set(site, instances=2)))
    site.run("apply", file)
    old = {row["name"] for row in site.members("instance")}
    assert "the hosts have" in site.run("scale", "web", "3", expect=2)

    site.write("web.yaml", web_set(site, instances=2, user_data=NEW_WEB))
    site.run("apply", file, expect=1)
    status = site.status()
    assert status["rollout"]["state"] == "paused"
    assert "no host has 128 MiB of memory to give" in status["rollout"]["reason"]
    assert {row["name"] for row in status["members"] if row["in_rotation"]} == old
    site.run("scale", "web", "1")
    status = site.status()
    assert status["converged"]
    assert status["rollout"] == {"state": "none", "updated": 1, "stale": 0, "reason": ""}
    assert site.fetch("/edition") == "second edition"


def test_what_needs_no_new_machine_restarts_nothing(site: Installation) -> None:
    text = web_set(site, instances=1, standby="{state: stopped, max_ready: 2}")
    site.write("web.yaml", text)
    site.run("apply", str(site.root / "web.yaml"))
    before = machines(site)
    other = text.replace("listen: 8080", "listen: 8090").replace("policy: newest", "policy: oldest")
    other = other.replace("failures: 3", "failures: 5").replace("{state: stopped, max_ready: 2}", "{max_ready: 1}")
    site.write("other.yaml", other + "update: {max_surge: 50%}\nrepair: {action: replace}\n")
    site.run("apply", str(site.root / "other.yaml"))
    (kept,) = machines(site).items()
    assert before.items() > {kept}
    assert site.fetch(port=8090) == site.members("instance")[0]["name"]
    assert site.fetch() == ""
    assert [one["kind"] for one in site.json_lines("events", "web")].count("rollout_started") == 0


def machines(site: Installation) -> dict[str, str]:
    """Identity of what libvirt has, by domain."""
    return {
        name: subprocess.run(
            ["virsh", "-c", site.uri, "domuuid", name], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in site.domains()
    }
