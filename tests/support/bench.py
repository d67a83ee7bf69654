"""`scripts/bench`: how fast the product is. Ratios hold across machines, times do not."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NoReturn

from tests.support import bench_faults
from tests.support.benchmarks.claims import claim_hibernated, claim_running, claim_stopped
from tests.support.benchmarks.cold import cold_creation, cold_debian
from tests.support.benchmarks.controller import idle_loop, memory
from tests.support.benchmarks.forks import fork_restore, forks, forks_debian, many
from tests.support.benchmarks.idle import idle
from tests.support.benchmarks.planning import planning
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.start import start
from tests.support.benchmarks.tools.section import chosen_tools, tools

BENCHES: dict[str, Callable[[], list[Row]]] = {
    "claim-running": claim_running,
    "claim-stopped": claim_stopped,
    "cold": cold_creation,
    "cold-debian": cold_debian,
    "claim-hibernated": claim_hibernated,
    "forks": forks,
    "forks-debian": forks_debian,
    "fork-restore": fork_restore,
    "many": many,
    "idle": idle,
    "start": start,
    "plan": planning,
    "idle-loop": idle_loop,
    "memory": memory,
    "tools": tools,
}


def main() -> None:
    if sys.argv[1:2] == ["faults"]:
        bench_faults.main(sys.argv[2:])
    if sys.argv[1:2] == ["tools"]:
        tell(*chosen_tools(sys.argv[2:]))
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog="scripts/bench faults: what breaks under load and faults; scripts/bench tools: beside other tools",
    )
    parser.add_argument("--only", choices=sorted(BENCHES), help="run one of them")
    parser.add_argument("--json", action="store_true", help="print a list for programs")
    chosen = parser.parse_args()
    names = [name for name in BENCHES if chosen.only in (None, name)]
    rows: list[Row] = []
    for number, name in enumerate(names, 1):
        print(f"({number} of {len(names)}) {name}", file=sys.stderr, flush=True)
        found = measure(name)
        rows += found
        if not chosen.json:
            show(found)
    if chosen.json:
        show(rows, as_json=True)
    end(rows)


def measure(name: str) -> list[Row]:
    """One section. If it cannot be measured, the others still are: it has one row, which is not ok."""
    try:
        return BENCHES[name]()
    except Exception:  # noqa: BLE001 - whatever it is, it is shown, and counts as missed
        traceback.print_exc()
        return [Row(f"{name}: not measured, see above", None, "", 0.0)]


def tell(rows: Sequence[Row], as_json: bool) -> NoReturn:
    """Print them, and end with 1 if a bound is missed."""
    show(rows, as_json)
    end(rows)


def show(rows: Sequence[Row], as_json: bool = False) -> None:
    if as_json:
        print(json.dumps([{**asdict(row), "ok": row.ok} for row in rows], indent=2))
        return
    for row in rows:
        print(line_of(row), flush=True)


def end(rows: Sequence[Row]) -> NoReturn:
    sys.exit(0 if all(row.ok for row in rows) else 1)


def line_of(row: Row) -> str:
    if row.value is None:
        return row.what
    bound = "" if row.bound is None else f"  bound {row.bound:g} {row.unit}  {'ok' if row.ok else 'MISSED'}"
    return f"{row.what:<72} {row.value:9.2f} {row.unit}{bound}"


if __name__ == "__main__":
    main()
