"""An event as a person reads it."""

from __future__ import annotations

from orchestrator.cli.view import event_text
from orchestrator.models.events import Event
from tests.builders import NOW


def test_an_event_is_a_line_with_when_what_and_who() -> None:
    words = event_text(Event(7, NOW, "web", "web-00001", "ready", "it is ready")).split(maxsplit=4)
    assert words[2:] == ["ready", "web-00001", "it is ready"]
    assert event_text(Event(8, NOW, "web", "", "converged", "done")).split()[3] == "web"


def test_further_lines_of_an_event_stand_out_from_the_next_event() -> None:
    first, *more = event_text(Event(7, NOW, "web", "web-00001", "step_output", "one\ntwo\n\nthree")).split("\n")
    assert first.endswith("one")
    assert [line.strip() for line in more] == ["| two", "|", "| three"]
    assert len({line.index("|") for line in more}) == 1
