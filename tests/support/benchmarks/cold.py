"""Growing from nothing, beside a bare libvirt script."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from tests.support.benchmarks.growth import (
    ask,
    await_true,
    declare,
    direct_url,
    serving_commands,
    site,
    site_set,
    virsh,
)
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.yardstick import as_anybody_writes_it, median_ratio
from tests.support.installation import Installation

BARE = Path(__file__).resolve().parents[3] / "scripts" / "bench_bare.py"
# Single boots differ by a fifth on a machine that others use too: it takes more pairs to see a tenth.
COLD_ROUNDS = 9


def cold_creation(image: str = "micro", rounds: int = COLD_ROUNDS) -> list[Row]:
    """One machine from nothing; yardstick: the script of scripts/bench_bare.py with the same documents, but
    without the product's shortcut (`yardstick.py`). With it the script runs once more.

    Each time it is the only machine: guests beside it would slow down one more than the other. The ratios are of
    whole processes: of a command beside a controller, as where one always runs, and of one that loads itself and
    is the controller. What the product adds to a creation is measured in a controller that runs already.
    """
    with site(1, image=image) as made:
        text = site_set(made, 1, image=image).replace("setup:\n", "setup:\n  fork: false\n", 1)
        twin = take_twin(made, text)
        made.run("scale", "web", "0")
        race = Race(made, twin)
        for number in range(rounds):
            race.run_round(number)
    overhead = statistics.median(ours - theirs for ours, theirs in zip(race.own, race.in_libvirt, strict=True))
    script = f"bare libvirt script, one {image} machine until it answers"
    ways = {
        f"cold creation of {image} beside a controller": race.beside,
        f"cold creation of {image} without one": race.alone,
    }
    return [
        Row(script, statistics.median(race.plain), "s"),
        Row(f"{script}, as the product describes it", statistics.median(race.with_shortcut), "s"),
        *(
            row
            for what, ours in ways.items()
            for row in (
                Row(what, statistics.median(ours), "s"),
                Row(f"{what} : bare libvirt script", median_ratio(ours, race.plain), "x", 1.05),
                Row(
                    f"{what} : the same, as the product describes it", median_ratio(ours, race.with_shortcut), "x"
                ),
            )
        ),
        Row(f"product's own overhead per cold {image}", overhead * 1000, "ms", 150.0),
    ]


class Race:
    """The same machine made in four ways, and the seconds each took in each round."""

    def __init__(self, made: Installation, twin: Twin) -> None:
        self._made, self._twin = made, twin
        self._plain_twin = replace(twin, xml=as_anybody_writes_it(twin.xml))
        self.plain: list[float] = []
        self.with_shortcut: list[float] = []
        self.beside: list[float] = []
        self.alone: list[float] = []
        self.own: list[float] = []  # of these beside a controller, the product's
        self.in_libvirt: list[float] = []  # of the bare ones, libvirt's

    def run_round(self, number: int) -> None:
        """Each goes first in turn: the next boots while the disk still writes what the one before has left."""
        ways = [self._run_plain, self._run_beside, self._run_with_shortcut, self._run_alone]
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            way(number)

    def _run_plain(self, number: int) -> None:
        self.plain.append(run_bare(self._made, self._plain_twin, number)[1])

    def _run_with_shortcut(self, number: int) -> None:
        in_libvirt, whole = run_bare(self._made, self._twin, number)
        self.in_libvirt.append(in_libvirt)
        self.with_shortcut.append(whole)

    def _run_beside(self, _number: int) -> None:
        with serving_commands(self._made):
            answer = first_answer(self._made)
        self.own.append(answer.own_seconds)
        self.beside.append(answer.seconds)

    def _run_alone(self, _number: int) -> None:
        self.alone.append(first_answer(self._made).seconds)


@dataclass(frozen=True)
class FirstAnswer:
    """Seconds from the start of the command until the only instance answered; of these, the product's own."""

    seconds: float
    own_seconds: float


def first_answer(made: Installation) -> FirstAnswer:
    """`understudy scale web 1` of an empty set, until it answers through the balancer; then it is emptied."""
    began = time.monotonic()
    process = subprocess.Popen(made.command("scale", "web", "1"), stdout=subprocess.DEVNULL)
    await_true(lambda: process.poll() not in (None, 0) or ask(f"http://{made.endpoint}:8080/") != "", pause=0.05)
    taken, answered_at = time.monotonic() - began, time.time()
    if process.wait(timeout=300) != 0:
        raise RuntimeError("scale failed")
    done = FirstAnswer(taken, seconds_of_its_own(made, answered_at))
    made.run("scale", "web", "0")
    return done


def cold_debian() -> list[Row]:
    """The same with real cloud-init, whose first boot takes a minute."""
    return cold_creation("debian-12", rounds=1)


def seconds_of_its_own(made: Installation, answered_at: float) -> float:
    """Of the newest machine: from its record until its domain runs, and from its readiness until it answered."""
    newest = max(made.members("instance"), key=lambda row: float(row["created_at"]))["name"]
    done = subprocess.run(made.command("events", "web", "--json"), capture_output=True, text=True, check=True)
    moments = {
        event["kind"]: float(event["at"])
        for event in map(json.loads, done.stdout.splitlines())
        if event["member"] == newest
    }
    return moments["provisioning"] - moments["claim_cold"] + max(answered_at - moments["ready"], 0.0)


@dataclass(frozen=True)
class Twin:
    """What a machine of the product was made from: its domain XML, its address and its seed."""

    xml: str
    domain: str
    address: str
    seed: Path


def take_twin(made: Installation, text: str) -> Twin:
    """Of a machine that has its seed still; the set declared by `text` takes its place."""
    made.run("scale", "web", "0")
    declare(made, text.replace("setup:\n", "setup:\n  keep_seed: true\n", 1))
    made.run("scale", "web", "1", seconds=1200)
    row = made.members("instance")[0]
    domain = row["domain"]
    seed = made.root / "twin.seed.iso"
    seed.write_bytes((made.root / "volumes" / f"{domain}.{row['incarnation']}.seed.iso").read_bytes())
    root = ElementTree.fromstring(virsh("dumpxml", "--inactive", domain))
    for tag in ("uuid", "genid", "metadata"):
        for element in root.findall(tag):
            root.remove(element)
    made.run("scale", "web", "0")
    declare(made, text)
    return Twin(ElementTree.tostring(root, encoding="unicode"), domain, row["address"], seed)


def run_bare(made: Installation, twin: Twin, number: int) -> tuple[float, float]:
    """(seconds in libvirt's calls, seconds until the answer) of a hand-made twin of a product machine."""
    name = f"{made.prefix}-bare{number}"
    address = f"{made.net}.{200 + number}"
    text = twin.xml.replace(twin.address, address).replace(twin.domain, name)
    job = {
        "xml": text,
        "pool": made.prefix,
        "base": next(one for one in made.volumes() if "-image-" in one and one.endswith(".qcow2")),
        "overlay": f"{name}.1.qcow2",
        "seed": f"{name}.1.seed.iso",
        "seed_file": str(twin.seed),
        "console": str(made.root / "volumes" / "consoles" / f"{name}.1.console.log"),
        "url": direct_url(address),
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(BARE)], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    whole = time.monotonic() - began
    virsh("destroy", name)
    virsh("undefine", name)
    for volume in (job["overlay"], job["seed"]):
        virsh("vol-delete", "--pool", made.prefix, str(volume))
    Path(job["console"]).unlink(missing_ok=True)
    return float(done.stdout), whole
