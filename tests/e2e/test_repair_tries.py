"""How many are repaired at once, and how often, on real guests: `max_unhealthy`, grace, growing pauses, giving up
(row D4). One set of three; the tests change it in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.following import Event, Following, following
from tests.support.installation import Installation, installation
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

# Longer than it takes to notice that services are silent, else they would show nothing. The last pause is 6 s.
GRACE, PAUSE = 4.5, 0.75
LIMITS = f'retry_pause = "{PAUSE}s"\nrepair_patience = "200ms"\nshutdown_timeout = "1s"\n'
REPAIR = f"repair: {{action: restart, grace: {GRACE}s, max_unhealthy: 40%}}\n"  # of three: one at a time

# With the mark on its disk, the service of a guest ends whenever it was put into rotation.
ILL = """\
cat > /etc/boot.d/60-ill <<'END'
#!/bin/sh
[ -e /root/ill ] || exit 0
(until grep -q in_service /run/understudy/phase; do sleep 0.1; done; killall httpd) >/dev/null 2>&1 &
END
chmod +x /etc/boot.d/60-ill
"""
BREAK = "touch /root/ill; sync; killall httpd"


@dataclass(frozen=True)
class Trio:
    """Three instances under a running controller; `chronic` breaks again after each repair, `once` does not."""

    on: Installation
    told: Following
    chronic: str
    once: str

    def events(self, member: str, *kinds: str) -> list[Event]:
        return [one for one in self.told.events if one["member"] == member and one["kind"] in kinds]

    def wait(self, member: str, kind: str, seconds: float, after: int = 0) -> Event:
        """The first such event with an id above `after`."""
        return self.told.wait(
            lambda one: (one["member"], one["kind"]) == (member, kind), seconds, f"{kind} of {member}", after
        )


@pytest.fixture(scope="module")
def trio(micro_image: Path) -> Iterator[Trio]:
    with installation() as made:
        made.configure(limits=LIMITS)
        made.run("image", "add", "micro", str(micro_image))
        text = web_set(made, instances=3, user_data=WEB + ILL, more=REPAIR)
        made.write("web.yaml", text.replace("interval: 1s, failures: 3", "interval: 200ms, failures: 3"))
        made.run("apply", str(made.root / "web.yaml"))
        chronic, once, _ = (row["name"] for row in made.members("instance"))
        with made.serving(), following(made) as told:
            yield Trio(made, told, chronic, once)


def test_not_more_are_repaired_at_once_than_max_unhealthy_and_who_waits_says_why(trio: Trio) -> None:
    breaking = [
        trio.on.start("ssh", f"web/{trio.chronic}", "--", BREAK),
        trio.on.start("ssh", f"web/{trio.once}", "--", "killall httpd"),
    ]
    for process in breaking:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
    both = {trio.chronic, trio.once}
    held_back = "as many as max_unhealthy allows are out of service already"
    waiting = trio.told.wait(lambda one: held_back in one["reason"], 30, "one waits for the other")
    assert waiting["member"] in both
    (other,) = both - {waiting["member"]}
    rows = {row["name"]: row for row in trio.on.members("instance")}
    assert rows[waiting["member"]]["reason"] == waiting["reason"]
    assert (rows[waiting["member"]]["phase"], rows[other]["in_rotation"]) == ("in_service", False)
    for name in both:
        begun = trio.wait(name, "repairing", 60)
        trio.wait(name, "in_service", 60, after=begun["id"])
    assert most_away_at_once(trio) == 1


def most_away_at_once(trio: Trio) -> int:
    """Instances that were out of service for a repair at the same time."""
    away: set[str] = set()
    most = 0
    for event in trio.told.events:
        if event["kind"] == "repairing":
            away.add(event["member"])
        elif event["kind"] == "in_service":
            away.discard(event["member"])
        most = max(most, len(away))
    return most


def test_what_does_not_help_is_tried_after_grace_with_growing_pauses_and_given_up_with_one_message(
    trio: Trio,
) -> None:
    end = trio.wait(trio.chronic, "gave_up", 120)
    assert f"gave up on {trio.chronic} after 5 tries: " in end["reason"]
    tries = trio.events(trio.chronic, "in_service", "repairing")
    waited = [
        round(after["at"] - before["at"], 2)
        for before, after in pairwise(tries)
        if (before["kind"], after["kind"]) == ("in_service", "repairing")
    ]
    # The first time it had served for long.
    assert len(waited) == 5
    for number, seconds in enumerate(waited[1:]):
        assert seconds >= max(GRACE, PAUSE * 2**number)
    # The last try is given its time, too.
    assert end["at"] >= trio.events(trio.chronic, "in_service")[-1]["at"] + GRACE
    assert any("it is given time before the next try" in one["reason"] for one in trio.told.events)

    status = trio.on.status()
    assert (status["health"], status["converged"]) == ("degraded", False)
    assert status["health_reason"].startswith(f"{trio.chronic} is unhealthy: {trio.chronic} does not pass its ")
    assert {row["name"]: row["failures"] for row in status["members"]}[trio.chronic] == 5
    assert trio.chronic not in {trio.on.fetch() for _ in range(6)} - {""}
    assert len(trio.events(trio.chronic, "gave_up")) == 1
    assert len(trio.events(trio.chronic, "repairing")) == 5
    assert most_away_at_once(trio) == 1


def test_the_command_that_the_message_names_is_enough_to_go_on(trio: Trio) -> None:
    (end,) = trio.events(trio.chronic, "gave_up")
    command = end["reason"].splitlines()[1].partition("understudy ")[2]
    assert command == f"reimage web/{trio.chronic}"
    trio.on.run(*command.split())
    trio.wait(trio.chronic, "in_service", 5, after=end["id"])
    status = trio.on.status()
    assert (status["health"], status["converged"]) == ("healthy", True)
    (row,) = (one for one in status["members"] if one["name"] == trio.chronic)
    assert (row["failures"], row["incarnation"], row["in_rotation"]) == (0, 2, True)
    assert trio.chronic in {trio.on.fetch() for _ in range(6)}
    assert len(trio.events(trio.chronic, "repairing", "gave_up")) == 6
