"""The section `tools` of `scripts/bench`, and `scripts/bench tools NAME...` for some of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.support.benchmarks.row import Row
from tests.support.benchmarks.tools.ansible import Ansible
from tests.support.benchmarks.tools.kcli import Kcli
from tests.support.benchmarks.tools.lab import lab
from tests.support.benchmarks.tools.product import Understudy, UnderstudyAlone, UnderstudyBoots
from tests.support.benchmarks.tools.race import Race, rows_of
from tests.support.benchmarks.tools.testcloud import Testcloud
from tests.support.benchmarks.tools.tool import Tool
from tests.support.benchmarks.tools.vagrant import Vagrant
from tests.support.benchmarks.tools.virt_lightning import VirtLightning
from tests.support.benchmarks.tools.virtinst import VirtClone, VirtInstall

TOOLS: dict[str, type[Tool]] = {
    "understudy": Understudy,
    "understudy-alone": UnderstudyAlone,
    "understudy-boots": UnderstudyBoots,
    "virt-install": VirtInstall,
    "virt-clone": VirtClone,
    "virt-lightning": VirtLightning,
    "testcloud": Testcloud,
    "kcli": Kcli,
    "vagrant": Vagrant,
    "ansible": Ansible,
}
OURS = (Understudy.name, UnderstudyAlone.name, UnderstudyBoots.name)
COUNTS = (1, 5)
ROUNDS = 3


def tools(chosen: Sequence[str] = (), counts: Sequence[int] = COUNTS, rounds: int = ROUNDS) -> list[Row]:
    """The product beside the chosen tools, all of them by default."""
    kinds = [kind for name, kind in TOOLS.items() if not chosen or name in chosen or kind is Understudy]
    with lab() as made:
        race = Race(made, [kind(made) for kind in kinds])
        try:
            race.prepare()
            race.warm_up()
            done = [race.turn(count, number) for number in range(rounds) for count in counts]
        finally:
            race.close()
    notes = [
        Row(f"{kind.name} differs: {kind.differs}", None, "") for kind in kinds if kind.name not in race.failed
    ]
    return [*notes, *rows_of(done, [kind.name for kind in kinds], race.failed, OURS)]


def chosen_tools(arguments: Sequence[str]) -> tuple[list[Row], bool]:
    """Rows, and whether they are wanted as JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench tools", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TOOLS)}; all by default")
    parser.add_argument("--machines", type=int, nargs="+", default=COUNTS, choices=range(1, 6), help="at once")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print a list for programs")
    words = parser.parse_args(arguments)
    unknown = set(words.names) - set(TOOLS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(TOOLS)}")
    return tools(words.names, words.machines, words.rounds), words.json
