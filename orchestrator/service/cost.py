"""What a set and its pool cost as declared, and what another state of the pool would (row B9). Pure arithmetic.

Running machines cost processors, memory and disk; stopped ones disk; hibernated ones disk, and as much again for
their memory. Sizes are those declared: what an overlay may grow to, not what it holds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.config.settings import PriceSettings
from orchestrator.models.members import PoolState, ScaleSet
from orchestrator.planner.parking import quotas

GIB = 2**30
HOURS_PER_MONTH = 730


@dataclass(frozen=True)
class Bill:
    """Of `machines` together; memory and disk in GiB, `per_month` in the currency of the price sheet."""

    machines: int
    vcpus: int
    memory: float
    disk: float
    per_month: float


def set_cost(wanted: ScaleSet, prices: PriceSettings) -> dict[str, Any]:
    """`instances`, `standby` (null without a pool) with what each state would cost, and the total per month."""
    instances = bill(wanted, {PoolState.RUNNING: wanted.wanted_instances}, prices, with_drives=True)
    standby = _standby(wanted, prices) if wanted.spec.standby is not None else None
    total = instances.per_month + (standby["per_month"] if standby else 0.0)
    return {
        "name": wanted.name,
        "currency": prices.currency,
        "instances": _rounded(instances),
        "standby": standby,
        "per_month": round(total, 2),
    }


def _standby(wanted: ScaleSet, prices: PriceSettings) -> dict[str, Any]:
    size = wanted.standby_target
    counts = quotas(wanted.pool_shares, size)
    now = bill(wanted, counts, prices)
    others = {state: bill(wanted, {state: size}, prices).per_month for state in PoolState}
    return {
        **_rounded(now),
        "state": {state.value: count for state, count in counts.items()},
        "if": {
            state.value: {"per_month": round(cost, 2), "saves": round(now.per_month - cost, 2)}
            for state, cost in others.items()
        },
    }


def bill(wanted: ScaleSet, counts: dict[PoolState, int], prices: PriceSettings, with_drives: bool = False) -> Bill:
    """Machines of the set's shape, by the state they are kept in; instances have drives."""
    machine = wanted.spec.machine
    memory = machine.memory / GIB
    local = wanted.spec.local_storage
    disk = ((machine.disk or wanted.image.virtual_size) + (local.size if local else 0)) / GIB
    if with_drives:
        disk += sum(drive.size for drive in wanted.spec.drives) / GIB
    running, hibernated = counts.get(PoolState.RUNNING, 0), counts.get(PoolState.HIBERNATED, 0)
    number = sum(counts.values())
    disks = number * disk + hibernated * memory
    hourly = running * (machine.vcpus * prices.vcpu_hour + memory * prices.memory_gib_hour)
    month = hourly * HOURS_PER_MONTH + disks * prices.disk_gib_month
    return Bill(number, running * machine.vcpus, running * memory, disks, month)


def _rounded(made: Bill) -> dict[str, Any]:
    return {key: round(value, 2) for key, value in asdict(made).items()}
