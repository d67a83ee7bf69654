"""Machines that go on from a golden image, beside the boot that they save."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from orchestrator.models.machine import Blueprint
from tests.support.benchmarks.growth import declare, grow, serving_commands, site_set, virsh
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.yardstick import median_ratio
from tests.support.fork_lab import MODEL, LibvirtLab, describe_machine, libvirt_lab
from tests.support.guest_images import guest_image
from tests.support.installation import Installation, installation

ROUNDS = 5
AT_ONCE = 4
MANY = 50


def forks(image: str = "micro", rounds: int = ROUNDS) -> list[Row]:
    """A cold creation, of which a golden image is taken; then growth without a pool, one and four at a time, by a
    process that is the controller and by one beside it."""
    with installation() as made:
        made.run("image", "add", image, str(guest_image(image)))
        declare(made, site_set(made, 1, image=image).replace("instances: 1", "instances: 0"))
        cold = grow(made, 1).seconds
        assert made.json("image", "list", "--golden"), "no golden image was taken"
        alone = grow_by_forks(made, rounds)
        made.run("scale", "web", "1")
        with serving_commands(made):
            beside = grow_by_forks(made, rounds)
        disk = [written(path) for path in (made.root / "volumes").glob("*.1.qcow2") if not is_frozen(path)]
        kept = sum(written(path) for path in (made.root / "volumes").glob("*-golden-*"))
    size = written(guest_image(image))

    def bound(percent: float) -> float | None:
        """A boot of a few seconds, and a disk of a few megabytes, leave little to save."""
        return None if image == "micro" else percent

    return [
        Row(f"cold creation of {image}, scale until it answers", cold, "s"),
        *(
            row
            for way, (one, four) in (("process without a controller", alone), ("process beside one", beside))
            for row in (
                Row(f"fork of {image} with an empty pool, {way}", one, "s"),
                Row(f"fork of {image}, {way} : its cold creation", 100 * one / cold, "%", bound(5.0)),
                Row(f"{AT_ONCE} forks of {image} at once, {way}", four, "s"),
                Row(f"{AT_ONCE} forks of {image}, {way} : one cold creation", 100 * four / cold, "%", bound(12.0)),
            )
        ),
        Row(f"disk of a fork of {image} that serves, median", statistics.median(disk) / 1e6, "MB"),
        Row(f"disk of a fork of {image} : its image", 100 * statistics.median(disk) / size, "%", bound(2.0)),
        Row(f"disk of the golden image of {image}", kept / 1e6, "MB"),
    ]


def grow_by_forks(made: Installation, rounds: int) -> tuple[float, float]:
    """Seconds until one more answers (median), and until four more do, which stay."""
    single = []
    for _ in range(rounds):
        single.append(grow(made, 2).seconds)
        made.run("scale", "web", "1")
    four = grow(made, 1 + AT_ONCE).seconds
    check_forks(made, AT_ONCE)
    return statistics.median(single), four


def forks_debian() -> list[Row]:
    """The same with real cloud-init, whose first boot takes a minute."""
    return forks("debian-12", rounds=3)


def count_forks(made: Installation) -> int:
    return sum(row["forked"] for row in made.members("instance"))


def check_forks(made: Installation, count: int) -> None:
    found = count_forks(made)
    if found != count:
        raise RuntimeError(f"{found} of {count} are forks: {made.run('events', 'web')}")


def written(file: Path) -> int:
    """Bytes of disk that it takes."""
    return file.stat().st_blocks * 512


def is_frozen(file: Path) -> bool:
    return "-golden-" in file.name or "-image-" in file.name or file.stat().st_nlink > 1


def fork_restore() -> list[Row]:
    """The driver's fork of a machine, from the call until it goes on; yardstick: `virsh restore` of its memory."""
    with libvirt_lab() as lab:
        source = described(lab, "aaaaa")
        lab.hypervisor.create_machine(source, None)
        lab.await_guest(source.domain)
        lab.hypervisor.take_golden(source.domain, 1, MODEL)
        lab.hypervisor.destroy_machine(source.domain)
        ours, bare = [], []
        for number in range(ROUNDS + 2):
            fork = described(lab, f"bbbb{number}")
            began = time.monotonic()
            lab.hypervisor.fork_machine(fork)
            ours.append(time.monotonic() - began)
            bare.append(restored(lab, fork.domain))
            lab.hypervisor.destroy_machine(fork.domain)
    return [
        Row("virsh restore of a micro machine's memory", statistics.median(bare), "s"),
        Row("fork of a micro machine, restore part alone", statistics.median(ours), "s"),
        Row(
            "fork, restore part alone : virsh restore",
            median_ratio(ours, bare),
            "x",
            1.3,
        ),
    ]


def restored(lab: LibvirtLab, domain: str) -> float:
    """Seconds of `virsh restore` of that machine."""
    file = lab.root / "bare.save"
    virsh("save", domain, str(file))
    began = time.monotonic()
    virsh("restore", str(file))
    taken = time.monotonic() - began
    file.unlink()
    return taken


def many() -> list[Row]:
    """Fifty micro guests behind one address, from nothing: the first boot, the others are forks of one of them."""
    with installation() as made:
        made.run("image", "add", "micro", str(guest_image("micro")))
        began = time.time()
        declare(made, site_set(made, MANY))
        whole = time.time() - began
        events = made.json_lines("events", "web")
        moments = {kind: [float(one["at"]) - began for one in events if one["kind"] == kind] for kind in _PARTS}
        forked = count_forks(made)
    return [
        Row(f"apply of {MANY} micro guests from nothing, whole process", whole, "s"),
        Row("of them forks", forked, "machines"),
        *(Row(f"of it: until {words}", moments[kind][place], "s") for kind, (words, place) in _PARTS.items()),
    ]


_PARTS = {
    "ready": ("the first is ready", 0),
    "golden_taken": ("its golden image is taken", 0),
    "in_service": ("the last is in service", -1),
}


def described(lab: LibvirtLab, suffix: str) -> Blueprint:
    return describe_machine(lab.prefix, lab.installation, lab.image, suffix)
