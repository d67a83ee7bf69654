"""What an event says of a changed declaration."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models.changes import describe_changes
from tests.builders import make_spec
from tests.unit.storage import Storage

SAME = ("micro:1", "micro:1")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"instances": 3}, "instances 2 -> 3"),
        (
            {"standby": {"max_ready": 4}},
            {"standby": {"max_ready": 6, "min_ready": 1, "state": {"running": "20%", "stopped": "80%"}}},
            "standby.state stopped -> running 20%, stopped 80%; standby.max_ready 4 -> 6; "
            "standby.min_ready 0 -> 1",
        ),
        ({}, {"standby": {"max_ready": 4}}, "standby added"),
        ({"standby": {"max_ready": 4}}, {}, "standby given up"),
        ({}, {"zones": ["a", "b"]}, "zones none -> a, b"),
        ({}, {"scale_in": {"drain_timeout": "1min"}}, "scale_in.drain_timeout 30s -> 1min"),
        ({}, {"machine": {"memory": "1GiB"}}, "machine.memory 128MiB -> 1GiB"),
        ({}, {"endpoints": []}, "endpoints given up"),
        ({}, {"readiness": [{"tcp": {"port": 80}}]}, "readiness added"),
        ({}, {"drives": [{"name": "data", "size": "1GiB", "mount": "/d"}]}, "drives added"),
    ],
)
def test_what_differs_is_told_with_both_values(before: dict[str, Any], after: dict[str, Any], words: str) -> None:
    assert describe_changes(make_spec(**before), make_spec(**after), SAME) == words


def test_nothing_that_setup_or_hooks_say_is_told() -> None:
    after = make_spec(setup={"user_data": "#!/bin/sh\necho secret"}, hooks={"on_claim": ["take secret"]})
    assert describe_changes(make_spec(), after, SAME) == "setup.user_data; hooks.on_claim"


def test_what_only_another_version_of_the_program_wrote_otherwise_is_told_as_that() -> None:
    assert describe_changes(make_spec(), make_spec(), SAME) == "only how it is written"


def test_a_new_version_of_the_image_is_a_change_though_its_name_is_the_same() -> None:
    assert describe_changes(make_spec(), make_spec(), ("micro:1", "micro:2")) == "image micro:1 -> micro:2"


def test_the_event_says_it(storage: Storage) -> None:
    storage.store.declare_set(make_spec(), storage.image, "one")
    storage.store.declare_set(make_spec(instances=5), storage.image, "one")
    assert storage.store.list_events("web")[-1].reason == "web was changed: instances 2 -> 5"
