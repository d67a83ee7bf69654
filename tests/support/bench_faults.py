"""`scripts/bench faults`: what was tried against the product, and what of it went wrong. Every `bad` must be 0."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn

from tests.support.bench_bad_input import run_inputs
from tests.support.bench_host_faults import run_faults
from tests.support.bench_kill_points import run_kills
from tests.support.guest_images import guest_image
from tests.support.load import OPERATIONS, kill_guest, loaded, repair


@dataclass(frozen=True)
class Tally:
    """`tried` of something, of which `bad` went wrong; `note` is for what is no fault but worth knowing."""

    what: str
    tried: int
    bad: int
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.tried > 0 and self.bad == 0


@dataclass(frozen=True)
class Section:
    """What the two numbers of its tallies count."""

    tried: str
    bad: str
    run: Callable[[], list[Tally]]


def load() -> list[Tally]:
    """Each operation on a set under constant traffic."""
    tallies = []
    with loaded(guest_image("micro")) as made:
        for name, operation in OPERATIONS.items():
            seen = made.measure(operation)
            tallies.append(Tally(name, seen.sent, len(seen.failed)))
        made.site.run("scale", "web", "2")
        killed = kill_guest(made, made.instances()[0])
        note = f"and {len(killed.in_flight)} of those under way; nothing sent to it after {killed.sent_for:.2f} s"
        tallies.append(Tally("guest killed", killed.sent, killed.bad, note))
        seen = made.measure(repair)
        tallies.append(Tally("killed guest started again", seen.sent, len(seen.failed)))
    return tallies


def host_faults() -> list[Tally]:
    """Each fault of a host or a guest that docs/faults.md lists, by the tests that show it survived."""
    return [Tally(fault, tried, bad) for fault, (tried, bad) in run_faults().items()]


def kill_points() -> list[Tally]:
    """Each operation, by controllers that are killed at every kind of point on its way."""
    return [Tally(operation, kills, leaks) for operation, (kills, leaks) in run_kills().items()]


def bad_inputs() -> list[Tally]:
    return [Tally(what, tried, bad) for what, (tried, bad) in run_inputs().items()]


# One entry for each table, each from a run of its own.
SECTIONS: dict[str, Section] = {
    "kills": Section("kill points", "leaks", kill_points),
    "load": Section("requests sent", "failed", load),
    "host": Section("tests run", "not passed", host_faults),
    "input": Section("bad inputs", "accepted", bad_inputs),
}


def main(arguments: Sequence[str]) -> NoReturn:
    """Prints the tables; exit 1 if anything went wrong, or a table counted nothing."""
    parser = argparse.ArgumentParser(prog="scripts/bench faults", description=__doc__)
    parser.add_argument("--only", choices=sorted(SECTIONS), help="run one of them")
    parser.add_argument("--json", action="store_true", help="print an object for programs")
    chosen = parser.parse_args(arguments)
    found = {name: one.run() for name, one in SECTIONS.items() if chosen.only in (None, name)}
    if chosen.json:
        print(json.dumps({name: [asdict(one) for one in tallies] for name, tallies in found.items()}, indent=2))
    else:
        for name, tallies in found.items():
            print(table(name, SECTIONS[name], tallies))
    sys.exit(0 if all(tallies and all(one.ok for one in tallies) for tallies in found.values()) else 1)


def table(name: str, section: Section, tallies: Sequence[Tally]) -> str:
    rows = [(name, section.tried, section.bad, "")]
    rows += [(one.what, str(one.tried), str(one.bad), one.note) for one in tallies]
    return "".join(f"{what:<40} {tried:>14} {bad:>8}  {note}".rstrip() + "\n" for what, tried, bad, note in rows)
