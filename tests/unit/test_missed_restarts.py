"""Restarts of guests that were seen while nothing could be planned for them."""

from __future__ import annotations

from orchestrator.models.sightings import HostSighting
from orchestrator.reconcile.missed_restarts import MissedRestarts
from tests.builders import make_member, see_host, see_machine

ONE, OTHER = make_member(suffix="00001"), make_member(suffix="00002")


def look(kept: MissedRestarts, host: HostSighting, *being_told: str) -> set[str]:
    """Whose guests count as restarted."""
    seen = kept.add({host.name: host}, set(being_told))[host.name]
    return {one.member for one in seen.machines.values() if one.rebooted}


def test_a_restart_is_told_once_the_guest_has_been_told() -> None:
    kept = MissedRestarts()
    restarted = see_host(see_machine(ONE, rebooted=True), see_machine(OTHER))
    quiet = see_host(see_machine(ONE), see_machine(OTHER))
    look(kept, restarted, ONE.name)
    look(kept, quiet, ONE.name)
    assert look(kept, quiet) == {ONE.name}
    assert look(kept, quiet) == set()


def test_others_hear_of_it_at_once() -> None:
    kept = MissedRestarts()
    restarted = see_host(see_machine(ONE, rebooted=True), see_machine(OTHER))
    assert look(kept, restarted, OTHER.name) == {ONE.name}
    assert look(kept, see_host(see_machine(ONE), see_machine(OTHER))) == set()


def test_a_restart_of_an_earlier_body_says_nothing_of_the_next() -> None:
    kept = MissedRestarts()
    look(kept, see_host(see_machine(ONE, rebooted=True)), ONE.name)
    assert look(kept, see_host(see_machine(ONE, incarnation=2))) == set()
