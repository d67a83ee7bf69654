"""The loop on fakes and a real store, cut short at every call to a host: before it, half way, and after it.

What is cut is never recorded, as if the controller's process had died there; another controller comes, and then
the audit finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Interrupted
from orchestrator.models.machine import Blueprint
from orchestrator.service import declare
from orchestrator.service import members as requests
from tests.fakes import FakeHypervisor
from tests.unit.loop import Site, open_site
from tests.unit.stock import audited

CHANGES = (
    "create_machine",
    "start_machine",
    "shut_down_machine",
    "hibernate_machine",
    "destroy_machine",
    "mark_machine",
    "attach",
    "remove_local_storage",
)
MOST_CALLS = 40

STORAGE: dict[str, Any] = {
    "local_storage": {"size": "16MiB", "mount": "/local"},
    "drives": [{"name": "data", "size": "16MiB", "mount": "/data"}],
}


class HypervisorCutShort(FakeHypervisor):
    """Whoever makes change number `cut_at`, counted from `arm` on, dies in it; `how` is before, half or after."""

    changes: tuple[str, ...] = CHANGES
    cut_at = 0
    how = ""
    was_cut = False
    _count = 0
    _dies_after = False

    def arm(self, cut_at: int, how: str) -> None:
        self.cut_at, self.how, self._count = cut_at, how, 0

    def _answer(self, call: str, subject: str) -> None:
        super()._answer(call, subject)
        if call not in self.changes or not self.cut_at:
            return
        self._count += 1
        if self._count == self.cut_at:
            if self.how == "before":
                self._die()
            self._dies_after = True

    def _make_files(self, blueprint: Blueprint, seed: bytes | None) -> None:
        super()._make_files(blueprint, seed)
        if self._dies_after and self.how == "half":
            self._die()

    def _remove(self, domain: str) -> None:
        if self._dies_after and self.how == "half":
            self.machines.pop(domain, None)
            self._die()
        super()._remove(domain)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with super()._changing():
            yield
            if self._dies_after:
                self._die()

    def _die(self) -> None:
        self.was_cut, self._dies_after, self.cut_at = True, False, 0
        raise Interrupted("the controller is gone")


def applied(site: Site) -> None:
    site.apply(**declared())


def scaled_out(site: Site) -> None:
    site.scale(4)


def scaled_in(site: Site) -> None:
    site.scale(1)


def reimaged(site: Site) -> None:
    requests.reimage(site.store, f"web/{site.instances()[0].name}")


def redeployed(site: Site) -> None:
    requests.redeploy(site.store, f"web/{site.instances()[0].name}")


def restarted(site: Site) -> None:
    requests.restart(site.store, f"web/{site.instances()[0].name}")


def rolled_out(site: Site) -> None:
    site.apply(**declared(machine={"memory": "256MiB"}))


def deleted(site: Site) -> None:
    declare.delete(site.store, "web")


def declared(**fields: Any) -> dict[str, Any]:
    return {"instances": 2, "standby": {"state": "hibernated", "max_ready": 3}, **STORAGE, **fields}


WISHES: dict[str, Callable[[Site], None]] = {
    "apply": applied,
    "scale out": scaled_out,
    "scale in": scaled_in,
    "reimage": reimaged,
    "redeploy": redeployed,
    "restart": restarted,
    "rollout": rolled_out,
    "delete": deleted,
}


@pytest.mark.parametrize("how", ["before", "half", "after"])
@pytest.mark.parametrize("wish", WISHES)
def test_cut_at_any_call_the_next_controller_leaves_nothing_over(tmp_path: Path, wish: str, how: str) -> None:
    for number in range(1, MOST_CALLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with open_site(folder, make_host=HypervisorCutShort) as site:
            if not is_cut(site, wish, number, how):
                assert number > 1
                return
    raise AssertionError(f"{wish} makes more than {MOST_CALLS} changes")


def is_cut(site: Site, wish: str, number: int, how: str) -> bool:
    """Carries the wish out over a cut at that change, and judges the end; False if it makes fewer changes."""
    host = site.host
    assert isinstance(host, HypervisorCutShort)
    if wish != "apply":
        site.apply(**declared())
        site.settle()
    drives = {drive.title for drive in site.store.snapshot().drives}
    before = site.names()
    host.arm(number, how)
    WISHES[wish](site)
    site.turn_until(lambda: host.was_cut or is_over(site), "it is cut, or over")
    if host.was_cut:
        site.crash()
        site.turn_until(lambda: is_over(site), f"{wish} is over, cut {how} change {number}")
    judge(site, wish, drives, before)
    return host.was_cut


def is_over(site: Site) -> bool:
    wanted = site.store.find_set("web")
    if wanted is None:
        return True
    return wanted.settled_generation == wanted.generation and not wanted.stuck


def judge(site: Site, wish: str, drives: set[str], before: set[str]) -> None:
    assert audited(site).found() == []
    kept = site.store.snapshot().drives
    assert {drive.title for drive in kept} >= drives
    made = site.host.disks.made
    assert all(made[name] <= 1 for name in made if "-drive." in name), "a drive was made anew"
    if wish in ("scale out", "reimage", "redeploy", "restart"):
        assert site.names() >= before
