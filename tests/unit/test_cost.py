"""What is declared, in money (row B9)."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.settings import PriceSettings
from orchestrator.models.members import ScaleSet
from orchestrator.service.cost import set_cost
from tests.builders import make_set, make_spec

PRICES = PriceSettings(vcpu_hour=0.01, memory_gib_hour=0.002, disk_gib_month=0.1, currency="EUR")
# 2 vCPUs, 4 GiB of memory, 10 GiB of disk: while it runs 730 * (0.02 + 0.008) + 1 a month.
RUNNING, STOPPED, HIBERNATED = 21.44, 1.0, 1.4


def declared(instances: int, standby: dict[str, Any] | None) -> ScaleSet:
    machine = {"vcpus": 2, "memory": "4GiB", "disk": "10GiB"}
    return make_set(make_spec(instances=instances, machine=machine, standby=standby))


@pytest.mark.parametrize(
    ("state", "each"), [("running", RUNNING), ("stopped", STOPPED), ("hibernated", HIBERNATED)]
)
def test_a_pool_costs_what_its_state_uses(state: str, each: float) -> None:
    cost = set_cost(declared(2, {"state": state, "max_ready": 5}), PRICES)
    assert cost["instances"]["per_month"] == pytest.approx(2 * RUNNING)
    assert cost["standby"]["machines"] == 3
    assert cost["standby"]["per_month"] == pytest.approx(3 * each)
    assert cost["per_month"] == pytest.approx(2 * RUNNING + 3 * each)


def test_what_a_change_of_state_would_save_is_said() -> None:
    pool = set_cost(declared(0, {"state": "running", "max_ready": 2}), PRICES)["standby"]
    assert pool["if"]["stopped"] == {"per_month": 2.0, "saves": pytest.approx(2 * RUNNING - 2.0)}
    assert pool["if"]["running"]["saves"] == 0.0


def test_a_mix_costs_the_sum_of_its_parts() -> None:
    mix = {"state": {"running": "25%", "stopped": "75%"}, "max_ready": 4}
    pool = set_cost(declared(0, mix), PRICES)["standby"]
    assert pool["per_month"] == pytest.approx(RUNNING + 3 * STOPPED)
    assert pool["state"] == {"running": 1, "stopped": 3}


def test_stopped_machines_use_no_processors_and_no_memory() -> None:
    pool = set_cost(declared(0, {"state": "stopped", "max_ready": 3}), PRICES)["standby"]
    assert (pool["vcpus"], pool["memory"], pool["disk"]) == (0, 0.0, 30.0)


def test_a_set_without_a_pool_has_no_pool_to_pay() -> None:
    assert set_cost(declared(1, None), PRICES)["standby"] is None


def test_without_a_disk_size_the_image_counts() -> None:
    wanted = make_set(make_spec(instances=1))
    assert set_cost(wanted, PRICES)["instances"]["disk"] == pytest.approx(64 / 1024, abs=0.01)


def test_every_machine_has_local_storage_and_only_instances_have_drives() -> None:
    machine = {"memory": "1GiB", "disk": "10GiB"}
    spec = make_spec(
        instances=2,
        machine=machine,
        standby={"max_ready": 3},
        local_storage={"size": "2GiB", "mount": "/local"},
        drives=[{"name": "data", "size": "5GiB", "mount": "/data"}],
    )
    cost = set_cost(make_set(spec), PRICES)
    assert cost["instances"]["disk"] == 2 * 17
    assert cost["standby"]["disk"] == 12
