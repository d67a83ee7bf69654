"""What `scripts/bench faults` reads out of the tests that it runs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tests.support import bench_bad_input, bench_host_faults, bench_kill_points

ROOT = Path(__file__).resolve().parents[2]

PRINTED = """\
apply: killed 41 times, 80.2 s
after apply: 0 left over
.delete: killed 7 times, 9.0 s
after delete: 2 left over
Frestart: killed 3 times, 9.0 s
"""

STATISTICS = """\
tests/unit/test_hostile_guest.py::test_an_agent_may_answer_anything:

  - during reuse phase (0.01 seconds):
    - 3 passing, 0 failing, and 1 invalid test cases
  - during generate phase (0.69 seconds):
    - 80 passing, 2 failing, and 12 invalid test cases
"""


def test_kill_points_are_counted_with_what_each_operation_left() -> None:
    assert bench_kill_points.count(PRINTED) == {"apply": (41, 0), "delete": (7, 2), "restart": (3, 1)}


def test_an_operation_that_is_tried_twice_counts_twice() -> None:
    again = "apply: killed 5 times, 9.0 s\nafter apply: 1 left over\n"
    assert bench_kill_points.count(PRINTED + again)["apply"] == (46, 1)
    assert bench_kill_points.count(again + "apply: killed 2 times, 9.0 s\n")["apply"] == (7, 2)


def test_examples_of_properties_count_and_other_tests_count_once() -> None:
    tests = [ElementTree.fromstring(text) for text in ("<testcase><failure/></testcase>", "<testcase/>")]
    assert bench_bad_input.count(STATISTICS, tests) == (1 + 3 + 80 + 2, 1)


def test_the_tests_that_faults_are_counted_by_are_there() -> None:
    for file, name in bench_host_faults.FAULTS.values():
        assert f"\ndef {name}" in (ROOT / file).read_text(encoding="utf-8"), (file, name)
