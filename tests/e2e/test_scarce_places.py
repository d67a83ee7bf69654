"""Who gets a machine first, on real guests: the floor of a pool before its other refills (row B7), a waiting claim
before any refill (row D8)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.following import Event, Following, following
from tests.support.installation import Installation, installation
from tests.support.specs import count_cpus, room_for, web_set

pytestmark = [pytest.mark.guest, pytest.mark.alone]


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """Two sets without instances, each with a pool of one; the tests of this module change them in their order."""
    with installation() as made:
        made.configure(limits=room_for(made, 5.5))
        made.run("image", "add", "micro", str(micro_image))
        spare = web_set(made, instances=0, standby="{state: running, max_ready: 1}", name="spare", port=8082)
        mine = booting(web_set(made, instances=0, standby="{state: running, max_ready: 1}"))
        made.run("apply", str(made.write("sets.yaml", f"{spare}---\n{mine}")))
        yield made


def booting(text: str) -> str:
    """A set of which every machine boots: none waits for a golden image."""
    return text.replace("setup:\n", "setup:\n  fork: false\n")


@pytest.fixture(scope="module")
def told(web: Installation) -> Iterator[Following]:
    with following(web) as made:
        yield made


def test_a_claim_refills_the_floor_at_once_and_the_rest_when_growth_is_over(
    web: Installation, told: Following
) -> None:
    (ready,) = web.members("standby")
    before = web.json_lines("events", "web")[-1]["id"]
    larger = booting(web_set(web, instances=2, standby="{state: running, max_ready: 4, min_ready: 1}"))
    applying = web.start("apply", str(web.write("larger.yaml", larger)))
    to_2 = "filling the standby pool of web to 2"
    told.wait(lambda one: one["reason"] == to_2, 60, "the rest of the pool is filled", after=before)
    applying.send_signal(signal.SIGINT)
    applying.communicate(timeout=60)
    claim, cold, floor, rest = (one for one in told.events if is_begun(one, before))
    assert claim["reason"] == f"claimed {ready['name']} from the standby pool of web"
    assert cold["reason"] == "creating an instance of web cold: the standby pool is exhausted"
    assert floor["reason"] == "filling the standby pool of web to 1"
    assert rest["reason"] == to_2
    made = told.wait(lambda one: (one["member"], one["kind"]) == (cold["member"], "ready"), 1, "it was set up")
    assert floor["id"] < made["id"] < rest["id"]
    assert floor["at"] - claim["at"] < 1
    # Its machine is made while the instance boots, where there is a CPU for it.
    begun = [one["member"] for one in told.events if one["kind"] == "provisioning" and one["id"] < made["id"]]
    assert floor["member"] in begun or count_cpus(web) == 1


def is_begun(event: Event, after: int) -> bool:
    """A member is claimed, or one begun, for a set or its reserve."""
    return event["id"] > after and event["kind"] in ("claim_served", "claim_cold", "admitted")


def test_a_waiting_claim_goes_before_every_refill_where_there_is_room_for_one(
    web: Installation, told: Following
) -> None:
    """The host has become smaller than what is declared. By name the set that only refills comes first."""
    no_room = "no host has 128 MiB of memory to give"
    mine, (other,) = web.members("standby"), web.members("standby", "spare")
    web.configure(limits=room_for(web, 3.5))
    with web.serving():
        for row in mine:
            web.run("remove", f"web/{row['name']}", expect=1)
        assert no_room in web.run("scale", "web", "3", expect=1)
        before = told.events[-1]["id"]
        assert no_room in web.run("remove", f"spare/{other['name']}", expect=1)
        told.wait(lambda one: one["kind"] == "in_service", 60, "the waiting instance serves", after=before)
        begun = [(one["set_name"], one["kind"]) for one in told.events if is_begun(one, before)]
        assert begun == [("web", "claim_cold")]
        for name in ("web", "spare"):
            status = web.status(name)
            assert no_room in status["reason"]
            assert (status["standby"]["ready"], status["standby"]["target"]) == (0, 1)
        assert web.status()["instances"] == {"desired": 3, "in_service": 3}
