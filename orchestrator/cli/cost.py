"""cost: what is declared, in money."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.context import JsonOption, opened, print_json, say
from orchestrator.cli.view import OptionalSet


def cost(name: OptionalSet = None, json_: JsonOption = False) -> None:
    """Show what each set and its standby pool cost a month, and what another state of the pool would save.

    Prices are those of [prices] in config.toml. A running machine costs processors, memory and disk, a stopped one
    its disk, a hibernated one its disk and room for its memory; all as declared.

    Examples:

      understudy cost

      understudy cost web --json
    """
    from orchestrator.service.cost import set_cost
    from orchestrator.service.lookup import get_set

    with opened() as runtime:
        wanted = [get_set(runtime.store, name)] if name is not None else runtime.store.snapshot().sets
        prices = runtime.settings.prices
        found = [set_cost(one, prices) for one in wanted]
        if json_:
            print_json(found[0] if name is not None else found)
            return
        if not found:
            say("no scale sets; declare one: understudy apply FILE")
        for one in found:
            _print_set(one)
        if found and not (prices.vcpu_hour or prices.memory_gib_hour or prices.disk_gib_month):
            say(
                f"all prices are 0: set vcpu_hour, memory_gib_hour, disk_gib_month under [prices] in "
                f"{runtime.paths.settings}"
            )


def _print_set(one: dict[str, Any]) -> None:
    say(f"{one['name']}: {_money(one['per_month'], one)} a month")
    say("                     machines   vCPUs  memory GiB  disk GiB      a month")
    _print_row("instances", one["instances"], one)
    pool = one["standby"]
    if pool is None:
        return
    _print_row("standby pool", pool, one)
    for state, other in pool["if"].items():
        if set(pool["state"]) == {state}:
            continue
        saves = other["saves"]
        words = f"{_money(abs(saves), one)} {'less' if saves >= 0 else 'more'}"
        say(f"    all {state:<11} {_money(other['per_month'], one):>44}   ({words})")


def _print_row(title: str, row: dict[str, Any], one: dict[str, Any]) -> None:
    say(
        f"  {title:<18} {row['machines']:>8} {row['vcpus']:>7} {row['memory']:>11.2f} {row['disk']:>9.2f} "
        f"{_money(row['per_month'], one):>12}"
    )


def _money(amount: float, one: dict[str, Any]) -> str:
    return f"{amount:.2f} {one['currency']}".strip()
