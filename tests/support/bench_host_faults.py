"""Which of the host's and guest's faults have a test that passes now."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

_HOST, _REPAIR, _BALANCER = (
    "tests/e2e/test_host_faults.py",
    "tests/e2e/test_repair.py",
    "tests/integration/test_haproxy.py",
)
_CONTRACT, _FAULTS = "tests/contract/test_hypervisor.py", "tests/e2e/test_faults.py"

# Fault -> (file, beginning of the names of the tests that show it).
FAULTS: dict[str, tuple[str, str]] = {
    "libvirtd killed while busy": (_HOST, "test_libvirtd_killed_while"),
    "virtlogd gone": (_HOST, "test_without_virtlogd"),
    "HAProxy killed with drains pending": (_FAULTS, "test_a_haproxy_that_is_killed_forgets_no_drain"),
    "HAProxy loaded anew with drains pending": (_BALANCER, "test_what_a_replaced_process_serves"),
    "host clock set by days": (_HOST, "test_the_clock_set_by_days"),
    "disk full under overlays": (_HOST, "test_a_disk_that_fills_up"),
    "disk full under a memory image": (_HOST, "test_memory_that_finds_no_room"),
    "disk full under the store": (_HOST, "test_a_store_that_cannot_be_written"),
    "storage pool read-only": (_HOST, "test_a_pool_made_read_only"),
    "volume of a pool member deleted": (_HOST, "test_a_pool_member_whose_disk"),
    "volume of an instance deleted": (_HOST, "test_an_instance_whose_disks"),
    "domain undefined": (_HOST, "test_a_machine_undefined_while_it_runs"),
    "domain destroyed and undefined": (_REPAIR, "test_what_is_done_about_a_fault"),
    "foreign domain of our name": (_CONTRACT, "test_a_domain_of_somebody_else"),
    "foreign volume of our name": (_CONTRACT, "test_a_volume_that_somebody_elses"),
    "QEMU that ignores SIGTERM": (_REPAIR, "test_an_instance_whose_qemu_hangs"),
    "guest that restarts over and over": (_REPAIR, "test_a_setup_that_always_fails_and_a_guest_that_restarts"),
}


def run_faults() -> dict[str, tuple[int, int]]:
    """Fault -> (tests run, tests that did not pass), of one run of all their files."""
    files = sorted({file for file, _ in FAULTS.values()})
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        chosen = " or ".join(sorted({name.partition("[")[0] for _, name in FAULTS.values()}))
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", "-k", chosen, *files]
        subprocess.run(command, stdout=sys.stderr, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    return {fault: _count(cases, file, begin) for fault, (file, begin) in FAULTS.items()}


def _count(cases: Sequence[ElementTree.Element], file: str, begin: str) -> tuple[int, int]:
    module = file.removesuffix(".py").replace("/", ".")
    mine = [one for one in cases if one.get("classname") == module and one.get("name", "").startswith(begin)]
    return len(mine), sum(any(child.tag in ("failure", "error", "skipped") for child in one) for one in mine)
