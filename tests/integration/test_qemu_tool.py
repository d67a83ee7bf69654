"""qemu-img within bounds: how long it may take, what is said when it took longer, and that it ends with us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.drivers.qemu_img import inspect_image
from orchestrator.drivers.qemu_tool import Bounds, bounds_for, run_qemu_img
from orchestrator.errors import ImageRefused, UnderstudyError
from tests.support.commands import stand_in
from tests.support.installation import wait_until
from tests.support.repository import make_qcow2, qemu_img

MIB, TIB = 2**20, 2**40


def test_what_takes_too_long_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "qemu-img", "exec sleep 60")
    with pytest.raises(UnderstudyError, match=r"^checking disk.raw took longer than 1 s\n") as caught:
        run_qemu_img(["check", "disk.raw"], Bounds("checking disk.raw", 1))
    assert not isinstance(caught.value, ImageRefused)
    assert "when this machine and its disks have less to do" in caught.value.fix


def test_so_is_what_takes_too_much_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "qemu-img", "while :; do :; done")
    with pytest.raises(UnderstudyError, match=r"^checking x took longer than 1 s of processor time\n"):
        run_qemu_img(["check", "x"], Bounds("checking x", 60, processor_seconds=1))


def test_one_that_says_nothing_more_and_does_not_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "qemu-img", "exec >&-\nexec sleep 60")
    with pytest.raises(UnderstudyError, match="took longer than 1 s"):
        run_qemu_img(["check", "x"], Bounds("checking x", 1))


def test_time_grows_with_the_size() -> None:
    assert bounds_for("x", 0, 300).seconds == 300
    assert bounds_for("x", TIB, 300).seconds == 300 + TIB // (10 * MIB)


def test_a_large_image_is_given_time_to_be_checked_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, log = make_qcow2(tmp_path), tmp_path / "log"
    os.truncate(file, TIB)
    stand_in(tmp_path, monkeypatch, "prlimit", f'echo "$@" >> {log}\nexec $REAL "$@"')
    assert inspect_image(file).kind == "qcow2"
    limits = {line.split()[3]: line.split()[1] for line in log.read_text(encoding="utf-8").splitlines()}
    grown = TIB // (10 * MIB)
    assert limits == {
        "info": "--cpu=60:70",
        "check": f"--cpu={300 + grown}:{310 + grown}",
        "convert": f"--cpu={600 + grown}:{610 + grown}",
    }


def test_how_far_it_is_is_heard(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(64 * MIB))
    for command in (["convert", "-p", "-O", "qcow2", raw, tmp_path / "a"], ["compare", "-p", raw, tmp_path / "a"]):
        heard: list[float] = []
        done = run_qemu_img([str(word) for word in command], Bounds("x", 60), heard.append)
        assert done.status == 0
        assert "100%" not in done.output
        assert heard == sorted(heard)
        assert heard[-1] == 100
        assert len(heard) > 5


OWNER = """
from orchestrator.drivers.qemu_tool import Bounds, run_qemu_img
run_qemu_img(["convert"], Bounds("x", 60))
"""


def test_it_does_not_outlive_a_command_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = tmp_path / "number"
    stand_in(tmp_path, monkeypatch, "qemu-img", f"echo $$ > {number}.new; mv {number}.new {number}\nexec sleep 60")
    owner = subprocess.Popen([sys.executable, "-c", OWNER])
    wait_until(number.exists, 30, "the tool is called")
    tool = Path("/proc") / number.read_text(encoding="utf-8").strip() / "stat"
    owner.kill()
    owner.wait()
    wait_until(lambda: not tool.exists() or " Z " in tool.read_text(), 10, "the tool is gone")


def test_words_of_a_failure_are_those_of_the_tool(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no image")
    with pytest.raises(subprocess.CalledProcessError):
        qemu_img("info", "-f", "qcow2", tmp_path / "text")
    done = run_qemu_img(["info", "-f", "qcow2", str(tmp_path / "text")], Bounds("x", 60))
    assert done.status == 1
    assert "Image is not in qcow2 format" in done.words
