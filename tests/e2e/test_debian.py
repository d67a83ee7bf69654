"""The starter scale set on real Debian with real cloud-init: what the quickstart shows."""

from __future__ import annotations

import pytest

from orchestrator.config.resources import template
from tests.support.guest_images import guest_image
from tests.support.installation import Installation

pytestmark = pytest.mark.guest


@pytest.mark.timeout(1500)
def test_the_starter_set_grows_from_its_stopped_pool(empty: Installation) -> None:
    empty.run("image", "add", "debian-12", str(guest_image("debian-12")))
    text = template("starter.yaml").replace("address: 127.0.0.1", f"address: {empty.endpoint}")
    small = text.replace("instances: 2", "instances: 1").replace("max_ready: 4", "max_ready: 2")
    assert small.count("instances: 1") == small.count("max_ready: 2") == 1
    file = empty.write("starter.yaml", small)
    empty.run("apply", str(file), seconds=1400)

    first = empty.members("instance", "starter")[0]["name"]
    assert first in empty.fetch(seconds=30)
    pool = empty.members("standby", "starter")
    assert [(row["phase"], row["power"]) for row in pool] == [("standby", "stopped")]

    empty.run("scale", "starter", "2", seconds=600)
    assert {row["name"] for row in empty.members("instance", "starter")} == {first, pool[0]["name"]}
    assert {name for name in (first, pool[0]["name"]) for _ in range(4) if name in empty.fetch(seconds=30)}
    said = empty.run("ssh", f"starter/{first}", "--", "cloud-init status; hostname; cat /etc/debian_version")
    assert said.split() == ["status:", "done", first, *said.split()[3:]]
    assert said.split()[3].startswith("12.")
    empty.run("delete", "starter")
    assert empty.domains() == []
