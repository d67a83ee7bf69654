"""The harness that kills controllers: no call is left out of it, and it kills when it says that it does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash import Fuse, WiredHost, WiredLibvirt
from tests.support.kill_points import ASKING, ELSEWHERE, HOST_CALLS, REACHED, READING, SLOW, calls_of_libvirt


def bare(kind: str) -> str:
    return kind.rpartition(".")[2]


def test_every_call_of_a_port_has_to_kill_or_says_why_not() -> None:
    assert HOST_CALLS - REACHED["host"] - ELSEWHERE.keys() == set()
    assert REACHED["host"] <= HOST_CALLS
    assert not HOST_CALLS & ASKING


def test_every_call_of_libvirts_has_to_kill_or_says_why_not() -> None:
    reached = {bare(kind) for kind in REACHED["libvirt"]}
    assert calls_of_libvirt() - READING - reached - ELSEWHERE.keys() == set()
    assert not READING & (reached | ELSEWHERE.keys())
    assert calls_of_libvirt() >= reached


def test_nothing_is_named_that_is_not_there() -> None:
    there = calls_of_libvirt() | HOST_CALLS
    assert ELSEWHERE.keys() - there == set()
    assert READING - calls_of_libvirt() == set()
    slow = {kind.partition(".")[2] for kind in SLOW}
    assert slow <= set().union(*REACHED.values())


def test_a_call_that_a_driver_begins_to_use_is_found(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("def f(domain):\n    domain.injectNMI()\n", encoding="ascii")
    assert calls_of_libvirt(tmp_path) - READING == {"injectNMI"}


class Target:
    """What a driver calls. `taken` is what was called to its end."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.taken: list[str] = []

    def fork_machine(self) -> None:
        time.sleep(self.seconds)
        self.taken.append("fork_machine")

    def observe(self) -> None:
        self.taken.append("observe")

    injectNMI = fork_machine  # noqa: N815 - libvirt's word
    state = observe


def killed_at(tmp_path: Path, work: Callable[[Fuse], Any], kind: type[Fuse] = Fuse) -> list[str]:
    """Kinds at which processes that do this were killed, until one came to its end."""
    tried = tmp_path / "tried"
    tried.touch()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                work(kind(tried, "apply"))
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            return tried.read_text(encoding="utf-8").splitlines()
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("it never came to its end")


class LateFuse(Fuse):
    """For calls that return at once: also where the machine is busy, it is not in them any more."""

    during = 30.0


SLOWLY = 5.0  # seconds, of which a killed call takes a hundredth


def test_a_call_that_takes_its_time_is_killed_before_in_and_after_it(tmp_path: Path) -> None:
    def work(fuse: Fuse) -> None:
        fuse.around("x", lambda: time.sleep(SLOWLY if "x during" not in fuse.known() else 0.0))

    assert killed_at(tmp_path, work) == ["x before", "x during", "x after"]


def test_a_call_that_returns_at_once_is_not_said_to_be_killed_in_the_middle(tmp_path: Path) -> None:
    assert killed_at(tmp_path, lambda fuse: fuse.around("x", lambda: None), LateFuse) == ["x before", "x after"]


def test_a_call_that_fails_has_no_after(tmp_path: Path) -> None:
    def fail(fuse: Fuse) -> None:
        with pytest.raises(ZeroDivisionError):
            fuse.around("x", lambda: 1 // 0)

    assert killed_at(tmp_path, fail, LateFuse) == ["x before"]


def test_many_calls_at_once_are_killed_one_after_the_other(tmp_path: Path) -> None:
    def work(fuse: Fuse) -> None:
        threads = [threading.Thread(target=fuse.around, args=(f"x{n}", lambda: None)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    found = killed_at(tmp_path, work, LateFuse)
    assert sorted(found) == sorted(f"x{n} {when}" for n in range(3) for when in ("before", "after"))


class Recording(Fuse):
    """Burns at nothing, and knows what it was asked about."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "tried").touch()
        super().__init__(tmp_path / "tried", "apply")
        self.kinds: list[str] = []

    def around(self, kind: str, call: Callable[[], Any]) -> Any:
        self.kinds.append(kind)
        return call()


def test_a_host_is_wired_in_every_call_that_changes_something(tmp_path: Path) -> None:
    fuse, target = Recording(tmp_path), Target()
    host = WiredHost(target, "host", fuse, HOST_CALLS)
    host.fork_machine()
    host.observe()
    assert fuse.kinds == ["host.fork_machine"]
    assert target.taken == ["fork_machine", "observe"]


def test_libvirt_is_wired_in_every_call_that_is_not_known_to_ask_only(tmp_path: Path) -> None:
    fuse, target = Recording(tmp_path), Target()
    wired = WiredLibvirt(target, fuse)
    wired.injectNMI()
    wired.state()
    assert fuse.kinds == ["libvirt.Target.injectNMI"]
