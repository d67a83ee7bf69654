"""One suite for golden images and forks: of the fake hypervisor, and of libvirt and QEMU with micro guests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import pytest

from orchestrator.errors import Conflict, DiskLost, GoldenUnusable, HostError, Interrupted, NotFound
from orchestrator.models.machine import Blueprint
from orchestrator.models.members import Image
from orchestrator.models.naming import (
    drive_volume,
    fork_memory,
    golden_disk,
    golden_mark,
    golden_memory,
)
from orchestrator.models.ownership import TagState
from orchestrator.models.sightings import Power
from orchestrator.models.storage import ExtraDisk
from orchestrator.ports.hypervisor import Hypervisor
from tests.builders import INSTALLATION, PREFIX
from tests.fakes import FakeHypervisor
from tests.support.fork_lab import MIB, MODEL, describe_machine, libvirt_lab


def never() -> bool:
    return False


class Lab(Protocol):
    hypervisor: Hypervisor
    prefix: str
    installation: str
    image: Image

    def have_guest(self, blueprint: Blueprint) -> None:
        """A machine whose agent answers."""

    def await_guest(self, domain: str) -> None:
        """Its agent answers."""

    def write(self, domain: str, text: str) -> None:
        """Into a file on the guest's disk, and onto the disk."""

    def read(self, domain: str) -> str:
        """What is in that file; empty if there is none."""

    def has_carrier(self, domain: str) -> bool: ...
    def kill(self, domain: str) -> None:
        """Its QEMU dies."""

    def volumes(self) -> list[str]: ...
    def damage(self, volume: str) -> None:
        """Somebody writes into it."""

    def lose(self, volume: str) -> None: ...


class FakeLab:
    """Its guests have agents; a fork finds on its disk what its source had written when it was frozen."""

    def __init__(self) -> None:
        self.fake = FakeHypervisor()
        self.hypervisor: Hypervisor = self.fake
        self.prefix, self.installation = PREFIX, INSTALLATION
        self.image = Image("micro", 1, "a" * 64, 1, 16 * MIB, 0.0, "a test")
        self.fake.volumes[f"{PREFIX}-image-{'a' * 64}.qcow2"] = b""

    def have_guest(self, blueprint: Blueprint) -> None:
        self.fake.create_machine(blueprint, None)
        self.await_guest(blueprint.domain)

    def await_guest(self, domain: str) -> None:
        assert self.fake.power(domain) is Power.RUNNING
        self.fake.agents.setdefault(domain, {})

    def write(self, domain: str, text: str) -> None:
        self.fake.agents[domain]["/root/note"] = text

    def read(self, domain: str) -> str:
        return self.fake.agents[domain].get("/root/note", "")

    def has_carrier(self, domain: str) -> bool:
        return self.fake.machines[domain].is_linked

    def kill(self, domain: str) -> None:
        self.fake.kill(domain)

    def volumes(self) -> list[str]:
        return sorted(self.fake.volumes)

    def damage(self, volume: str) -> None:
        self.fake.volumes.pop(volume)

    def lose(self, volume: str) -> None:
        self.fake.lose(volume)


@pytest.fixture(params=["fake", "libvirt"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    if request.param == "fake":
        yield FakeLab()
        return
    with libvirt_lab() as made:
        yield made


def blueprint_of(lab: Lab, suffix: str, incarnation: int = 1) -> Blueprint:
    return describe_machine(lab.prefix, lab.installation, lab.image, suffix, incarnation)


@pytest.fixture
def source(lab: Lab) -> Blueprint:
    """A guest that is up, and has written onto its disk."""
    made = blueprint_of(lab, "s0urc")
    lab.have_guest(made)
    lab.write(made.domain, "source")
    return made


def test_a_taking_that_is_no_longer_wanted_leaves_everything_as_it_was(lab: Lab, source: Blueprint) -> None:
    before = lab.volumes()
    with pytest.raises(Interrupted):
        lab.hypervisor.take_golden(source.domain, 1, MODEL, lambda: True)
    assert lab.volumes() == before
    assert goldens(lab) == frozenset()
    assert power(lab, source.domain) is Power.RUNNING
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    assert goldens(lab) == {MODEL}


def test_a_taking_that_is_no_longer_wanted_meanwhile_is_undone_or_done(lab: Lab, source: Blueprint) -> None:
    before, asked = lab.volumes(), iter([False])
    try:
        lab.hypervisor.take_golden(source.domain, 1, MODEL, lambda: next(asked, True))
    except Interrupted:
        assert (lab.volumes(), goldens(lab)) == (before, frozenset())
    else:  # a small memory was written before anybody could end it
        assert goldens(lab) == {MODEL}
    assert power(lab, source.domain) is Power.RUNNING


@pytest.fixture
def golden(lab: Lab, source: Blueprint) -> Blueprint:
    """The source of a golden image."""
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    return source


def power(lab: Lab, domain: str) -> Power:
    seen = lab.hypervisor.observe().machines.get(domain)
    return seen.power if seen is not None else Power.ABSENT


def goldens(lab: Lab) -> frozenset[str]:
    return lab.hypervisor.observe().goldens


def golden_volumes(lab: Lab) -> list[str]:
    return [name for name in lab.volumes() if "-golden-" in name]


def of(lab: Lab, domain: str) -> list[str]:
    return [name for name in lab.volumes() if name.startswith(f"{domain}.")]


def fork(lab: Lab, suffix: str) -> Blueprint:
    """A fork whose guest answers, and whose link is still down."""
    made = blueprint_of(lab, suffix)
    lab.hypervisor.fork_machine(made)
    lab.await_guest(made.domain)
    return made


# ---- taking --------------------------------------------------------------------------------------------------


def test_a_golden_image_is_taken_once_and_its_source_goes_on(lab: Lab, source: Blueprint) -> None:
    assert goldens(lab) == frozenset()
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    taken = golden_volumes(lab)
    assert taken == sorted(name(lab.prefix, MODEL, 1) for name in (golden_disk, golden_memory, golden_mark))
    assert goldens(lab) == {MODEL}
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    assert golden_volumes(lab) == taken
    assert power(lab, source.domain) is Power.RUNNING
    lab.write(source.domain, "later")
    assert lab.read(source.domain) == "later"
    assert lab.has_carrier(source.domain)
    assert not lab.hypervisor.is_fork(source.domain)


def test_its_source_starts_again_and_hibernates_with_what_it_wrote_since(lab: Lab, golden: Blueprint) -> None:
    lab.write(golden.domain, "later")
    lab.hypervisor.hibernate_machine(golden.domain)
    lab.hypervisor.start_machine(golden.domain)
    assert lab.read(golden.domain) == "later"
    lab.hypervisor.shut_down_machine(golden.domain, 20, never)
    lab.hypervisor.start_machine(golden.domain)
    lab.await_guest(golden.domain)
    assert lab.read(golden.domain) == "later"


def test_a_golden_image_outlives_its_source(lab: Lab, golden: Blueprint) -> None:
    lab.hypervisor.destroy_machine(golden.domain)
    assert of(lab, golden.domain) == []
    assert goldens(lab) == {MODEL}
    made = fork(lab, "f0rk1")
    assert lab.read(made.domain) == "source"


def test_none_is_taken_of_a_machine_that_is_off_or_of_another_body(lab: Lab, source: Blueprint) -> None:
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.take_golden(source.domain, 2, MODEL)
    lab.hypervisor.shut_down_machine(source.domain, 20, never)
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.take_golden(source.domain, 1, MODEL)
    with pytest.raises(NotFound):
        lab.hypervisor.take_golden(f"{lab.prefix}-web-n0n3x", 1, MODEL)
    assert (golden_volumes(lab), goldens(lab)) == ([], frozenset())


def test_none_is_taken_of_a_machine_with_further_disks_or_its_seed(lab: Lab, source: Blueprint) -> None:
    drive = ExtraDisk(drive_volume(lab.prefix, "web", "data", 0), "drive-data", 0, 16 * MIB, is_drive=True)
    assert lab.hypervisor.disks.attach(source.domain, [drive], source.hardware)
    seeded = blueprint_of(lab, "s33d3")
    lab.hypervisor.create_machine(seeded, b"answers" * 1000)
    for domain in (source.domain, seeded.domain):
        with pytest.raises(GoldenUnusable):
            lab.hypervisor.take_golden(domain, 1, MODEL)
    assert (golden_volumes(lab), goldens(lab)) == ([], frozenset())


def test_none_is_taken_of_a_fork(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.take_golden(made.domain, 1, "fedcba9876543210")
    assert goldens(lab) == {MODEL}


# ---- forking -------------------------------------------------------------------------------------------------


def test_two_forks_go_on_at_once_and_write_apart(lab: Lab, golden: Blueprint) -> None:
    one, other = fork(lab, "f0rk1"), fork(lab, "f0rk2")
    for made in (one, other):
        assert lab.hypervisor.is_fork(made.domain)
        assert lab.read(made.domain) == "source"
        assert not lab.has_carrier(made.domain)
        assert fork_memory(made.domain, 1) not in lab.volumes()
    lab.write(one.domain, "one")
    lab.write(other.domain, "other")
    assert [lab.read(made.domain) for made in (golden, one, other)] == ["source", "one", "other"]


def test_forking_again_is_success_and_changes_nothing(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    lab.write(made.domain, "mine")
    lab.hypervisor.fork_machine(made)
    assert lab.read(made.domain) == "mine"
    lab.hypervisor.set_link(made.domain, True)
    lab.hypervisor.fork_machine(made)
    assert lab.read(made.domain) == "mine"


def test_a_link_goes_up_and_down(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    for up in (True, True, False, False, True):
        lab.hypervisor.set_link(made.domain, up)
        assert lab.has_carrier(made.domain) is up


def test_a_fork_that_had_its_link_up_hibernates_and_starts_again(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    lab.hypervisor.set_link(made.domain, True)
    lab.write(made.domain, "mine")
    lab.hypervisor.hibernate_machine(made.domain)
    assert power(lab, made.domain) is Power.HIBERNATED
    lab.hypervisor.start_machine(made.domain)
    lab.await_guest(made.domain)
    assert lab.read(made.domain) == "mine"
    assert lab.has_carrier(made.domain)
    lab.hypervisor.shut_down_machine(made.domain, 20, never)
    assert power(lab, made.domain) is Power.STOPPED
    lab.hypervisor.start_machine(made.domain)
    lab.await_guest(made.domain)
    assert lab.read(made.domain) == "mine"
    assert lab.hypervisor.is_fork(made.domain)


def test_a_fork_that_ends_before_its_link_was_up_is_gone(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    with pytest.raises(HostError):
        lab.hypervisor.hibernate_machine(made.domain)
    lab.kill(made.domain)
    assert power(lab, made.domain) is Power.ABSENT
    assert not lab.hypervisor.is_fork(made.domain)
    lab.hypervisor.fork_machine(made)
    lab.await_guest(made.domain)
    assert lab.read(made.domain) == "source"
    lab.hypervisor.destroy_machine(made.domain)
    assert (power(lab, made.domain), of(lab, made.domain)) == (Power.ABSENT, [])


def test_creating_in_place_of_a_fork_whose_link_was_never_up_boots(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    lab.hypervisor.create_machine(made, None)
    lab.await_guest(made.domain)
    assert not lab.hypervisor.is_fork(made.domain)
    assert power(lab, made.domain) is Power.RUNNING


def test_a_fork_replaces_the_body_before_it(lab: Lab, golden: Blueprint) -> None:
    lab.hypervisor.fork_machine(blueprint_of(lab, "s0urc", incarnation=2))
    seen = lab.hypervisor.observe().machines[golden.domain]
    assert (seen.incarnation, seen.power) == (2, Power.RUNNING)
    assert of(lab, golden.domain) == [f"{golden.domain}.2.qcow2"]


def test_a_fork_has_its_drives_from_the_beginning_and_keeps_them(lab: Lab, golden: Blueprint) -> None:
    drive = ExtraDisk(drive_volume(lab.prefix, "web", "data", 0), "drive-data", 1, 16 * MIB, is_drive=True)
    made = replace(blueprint_of(lab, "f0rk1"), disks=(drive,))
    lab.hypervisor.fork_machine(made)
    lab.await_guest(made.domain)
    lab.hypervisor.set_link(made.domain, True)
    lab.hypervisor.shut_down_machine(made.domain, 20, never)
    (found,) = (one for one in lab.hypervisor.survey().machines if one.domain == made.domain)
    assert drive.volume in found.disks
    with pytest.raises(Conflict):
        lab.hypervisor.disks.remove_drive(drive)


def test_a_mark_leaves_a_fork_a_fork(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    lab.hypervisor.mark_machine(made.domain, made.tag())
    lab.hypervisor.set_link(made.domain, True)
    lab.hypervisor.mark_machine(made.domain, replace(made.tag(), state=TagState.SET_UP))
    assert lab.hypervisor.is_fork(made.domain)
    (found,) = (one for one in lab.hypervisor.survey().machines if one.domain == made.domain)
    assert found.tag == replace(made.tag(), state=TagState.SET_UP, forked=True)


def test_nothing_is_forked_without_a_golden_image(lab: Lab, source: Blueprint) -> None:
    made = blueprint_of(lab, "f0rk1")
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.fork_machine(made)
    assert (power(lab, made.domain), of(lab, made.domain)) == (Power.ABSENT, [])
    assert not lab.hypervisor.is_fork(made.domain)


def test_the_link_of_what_is_not_there_or_off_is_not_set(lab: Lab, source: Blueprint) -> None:
    with pytest.raises(NotFound):
        lab.hypervisor.set_link(f"{lab.prefix}-web-n0n3x", True)
    lab.hypervisor.shut_down_machine(source.domain, 20, never)
    with pytest.raises(HostError):
        lab.hypervisor.set_link(source.domain, False)


# ---- removing, and what goes wrong ---------------------------------------------------------------------------


def test_a_golden_image_stays_while_a_fork_lives_on_it(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    with pytest.raises(Conflict, match=made.domain):
        lab.hypervisor.remove_golden(MODEL)
    assert goldens(lab) == {MODEL}
    lab.hypervisor.set_link(made.domain, True)
    lab.hypervisor.shut_down_machine(made.domain, 20, never)
    with pytest.raises(Conflict, match=made.domain):
        lab.hypervisor.remove_golden(MODEL)
    lab.hypervisor.destroy_machine(made.domain)
    for _ in range(2):
        lab.hypervisor.remove_golden(MODEL)
        assert (golden_volumes(lab), goldens(lab)) == ([], frozenset())


def test_its_source_goes_on_and_starts_again_once_it_is_removed(lab: Lab, golden: Blueprint) -> None:
    lab.hypervisor.remove_golden(MODEL)
    lab.hypervisor.shut_down_machine(golden.domain, 20, never)
    lab.hypervisor.start_machine(golden.domain)
    lab.await_guest(golden.domain)
    assert lab.read(golden.domain) == "source"


@pytest.mark.parametrize("part", [golden_disk, golden_memory, golden_mark])
def test_a_damaged_image_is_given_up_and_nothing_is_left(
    lab: Lab, golden: Blueprint, part: Callable[[str, str, int], str]
) -> None:
    lab.damage(part(lab.prefix, MODEL, 1))
    made = blueprint_of(lab, "f0rk1")
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.fork_machine(made)
    assert (power(lab, made.domain), of(lab, made.domain)) == (Power.ABSENT, [])
    assert (golden_volumes(lab), goldens(lab)) == ([], frozenset())


def test_another_is_taken_of_another_machine_while_forks_of_the_first_live_on(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    lab.hypervisor.set_link(made.domain, True)
    lab.lose(golden_memory(lab.prefix, MODEL, 1))
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.fork_machine(blueprint_of(lab, "f0rk2"))
    assert golden_volumes(lab) == [golden_disk(lab.prefix, MODEL, 1)]
    with pytest.raises(GoldenUnusable):
        lab.hypervisor.take_golden(golden.domain, 1, MODEL)
    fresh = blueprint_of(lab, "fr3sh")
    lab.have_guest(fresh)
    lab.hypervisor.take_golden(fresh.domain, 1, MODEL)
    assert goldens(lab) == {MODEL}
    again = fork(lab, "f0rk2")
    assert (lab.read(again.domain), lab.read(made.domain)) == ("", "source")


def test_a_frozen_disk_that_is_lost_costs_a_fork_its_disk(lab: Lab, golden: Blueprint) -> None:
    made = fork(lab, "f0rk1")
    lab.hypervisor.set_link(made.domain, True)
    lab.hypervisor.shut_down_machine(made.domain, 20, never)
    lab.lose(golden_disk(lab.prefix, MODEL, 1))
    with pytest.raises(DiskLost):
        lab.hypervisor.start_machine(made.domain)
