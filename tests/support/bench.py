"""`scripts/bench`: how fast the product is on real guests. Ratios hold across machines, times do not."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from orchestrator.config.resources import template
from orchestrator.daemon.runtime import Runtime
from orchestrator.models.members import Member, Role
from orchestrator.models.naming import reachable_port
from orchestrator.store import Store
from tests.support import bench_faults
from tests.support.guest_images import guest_image
from tests.support.installation import Failed, Installation, installation, wait_until
from tests.support.specs import web_set

BARE = Path(__file__).resolve().parents[2] / "scripts" / "bench_bare.py"
ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """`bound` None: reported only."""

    what: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def ok(self) -> bool:
        return self.bound is None or self.value <= self.bound


@contextlib.contextmanager
def site(instances: int, standby: str = "", image: str = "micro") -> Iterator[Installation]:
    """A set named web of guests of that image, ready."""
    with installation() as made:
        made.run("image", "add", image, str(guest_image(image)))
        declare(made, site_set(made, instances, standby, image))
        yield made


def declare(made: Installation, text: str) -> None:
    made.write("web.yaml", text)
    made.run("apply", str(made.root / "web.yaml"), seconds=1200)


def site_set(made: Installation, instances: int, standby: str = "", image: str = "micro") -> str:
    return web_set(made, instances=instances, standby=standby) if image == "micro" else starter(made)


def starter(made: Installation) -> str:
    """What the quickstart applies, as one instance without a pool."""
    text = template("starter.yaml").replace("name: starter", "name: web").replace("instances: 2", "instances: 1")
    text = text.replace("address: 127.0.0.1", f"address: {made.endpoint}")
    return text.replace("max_ready: 4", "max_ready: 0")


def ask(url: str) -> str:
    """The answer's text, empty if there is none yet."""
    try:
        with urllib.request.urlopen(url, timeout=0.5) as answer:
            return str(answer.read().decode().strip())
    except OSError:
        return ""


def direct_url(address: str) -> str:
    return f"http://{address}:{reachable_port(address, 80)}/"


@dataclass(frozen=True)
class Growth:
    """Seconds from the start of the command until a new instance answered, and when that was (epoch)."""

    seconds: float
    answered_at: float


def grow(made: Installation, count: int) -> Growth:
    """`understudy scale web COUNT`, from its start until a new instance answers through the balancer."""
    store = Runtime(made.root).store
    known = {member.name for member in store.snapshot().members if member.role is Role.INSTANCE}
    began = time.monotonic()
    process = subprocess.Popen(made.command("scale", "web", str(count)), stdout=subprocess.DEVNULL)
    # Asked first is only the new guest itself: requests through the balancer would keep the old ones busy, and on
    # two cores that would slow down the boot that is measured.
    await_true(
        lambda: (
            process.poll() is not None
            or any(ask(direct_url(one.address)) for one in instances_beside(store, known))
        ),
        pause=0.05,
    )
    await_true(lambda: new_answers(made, known, count))
    done = Growth(time.monotonic() - began, time.time())
    if process.wait(timeout=300) != 0:
        raise RuntimeError("scale failed")
    return done


def instances_beside(store: Store, known: set[str]) -> list[Member]:
    members = store.snapshot().members
    return [one for one in members if one.role is Role.INSTANCE and one.name not in known]


def await_true(happened: Callable[[], bool], pause: float = 0.01) -> None:
    """Looks more often than a test would: what is measured is short."""
    end = time.monotonic() + 300
    while not happened():
        if time.monotonic() > end:
            raise Failed("nothing answers after 300 s")
        time.sleep(pause)


def new_answers(made: Installation, known: set[str], count: int) -> bool:
    """One round of requests: the balancer takes its servers in turn."""
    answers = {ask(f"http://{made.endpoint}:8080/") for _ in range(count)}
    return any(answer and not any(name in answer for name in known) for answer in answers)


def virsh(*arguments: str) -> str:
    return subprocess.run(["virsh", "-q", *arguments], capture_output=True, text=True, check=True).stdout


def switch_off(domain: str) -> None:
    """As often as it takes: a guest that has only just answered may not hear the first time."""
    for _ in range(10):
        subprocess.run(["virsh", "-q", "shutdown", domain], capture_output=True, check=False)
        with contextlib.suppress(Failed):
            wait_until(lambda: "shut off" in virsh("domstate", domain), 5, "it is off")
            return
    raise RuntimeError(f"{domain} does not switch itself off")


def claim_running() -> list[Row]:
    """A whole `understudy scale` process against a running pool."""
    with site(1, "{state: running, max_ready: 4}") as made:
        taken = [grow(made, count).seconds for count in (2, 3, 4)]
    return [Row("claim from a running pool, whole process", statistics.median(taken), "s", 1.5)]


def claim_stopped() -> list[Row]:
    """A whole `understudy scale` process against a stopped pool; yardstick: virsh start of the same machines."""
    bare, ours, ratios = [], [], []
    with site(1, f"{{state: stopped, max_ready: {ROUNDS + 1}}}") as made:
        for count in range(2, ROUNDS + 2):
            # In turns: guests that run already slow the next one down, for both alike.
            bare.append(seconds_by_virsh(made.members("standby")[0]))
            ours.append(grow(made, count).seconds)
            ratios.append(ours[-1] / bare[-1])
    base, mine = statistics.median(bare), statistics.median(ours)
    return [
        Row("virsh start until its service answers", base, "s"),
        Row("claim from a stopped pool, whole process", mine, "s"),
        Row("claim from a stopped pool : virsh start", statistics.median(ratios), "x", 1.15),
    ]


def seconds_by_virsh(row: dict[str, str]) -> float:
    """`virsh start` of a member of the pool until its service answers; it is switched off again."""
    began = time.monotonic()
    virsh("start", row["domain"])
    await_true(lambda: ask(direct_url(row["address"])) != "")
    taken = time.monotonic() - began
    switch_off(row["domain"])
    return taken


# Single boots differ by a fifth on a machine that others use too: it takes more pairs to see a tenth.
COLD_ROUNDS = 9


def cold_creation(image: str = "micro", rounds: int = COLD_ROUNDS) -> list[Row]:
    """One machine from nothing; yardstick: the script of scripts/bench_bare.py with the same documents.

    Each time it is the only machine: guests beside it would slow down one more than the other. The ratio is of a
    whole process; what the product adds to a creation is measured where no process starts, in a controller that
    runs already.
    """
    ours, bare, ratios, overheads = [], [], [], []
    with site(1, image=image) as made:
        twin = take_twin(made, site_set(made, 1, image=image))
        made.run("scale", "web", "0")
        for number in range(rounds):
            # Either goes first in turn: the second boots while the disk still writes what the first has left.
            if number % 2:
                ours.append(first_answer(made).seconds)
            bare.append(run_bare(made, twin, number)[1])
            if not number % 2:
                ours.append(first_answer(made).seconds)
            ratios.append(ours[-1] / bare[-1])
        with made.serving():
            for number in range(rounds, rounds + min(rounds, ROUNDS)):
                libvirt_calls, _ = run_bare(made, twin, number)
                overheads.append(first_answer(made).own_seconds - libvirt_calls)
    return [
        Row(f"bare libvirt script, one {image} machine until it answers", statistics.median(bare), "s"),
        Row(f"cold creation of {image}, whole process", statistics.median(ours), "s"),
        Row(f"cold creation of {image} : bare libvirt script", statistics.median(ratios), "x", 1.10),
        Row(f"product's own overhead per cold {image}", statistics.median(overheads) * 1000, "ms", 150.0),
    ]


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
        "console": f"{name}.1.console.log",
        "url": direct_url(address),
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(BARE)], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    whole = time.monotonic() - began
    virsh("destroy", name)
    virsh("undefine", name)
    for volume in (job["overlay"], job["seed"], job["console"]):
        virsh("vol-delete", "--pool", made.prefix, str(volume))
    return float(done.stdout), whole


def idle() -> list[Row]:
    """`understudy serve` over ten instances that need nothing."""
    with site(10) as made:
        process = made.start("serve")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(5)
        before, began = cpu_seconds(process.pid), time.monotonic()
        time.sleep(30)
        used = (cpu_seconds(process.pid) - before) / (time.monotonic() - began)
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        process.terminate()
        process.communicate(timeout=60)
    match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return [
        Row("idle controller, 10 instances: share of one core", used * 100, "%", 1.0),
        Row("idle controller, 10 instances: resident memory", int(match[1]) / 1024, "MB", 120.0),
    ]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


BENCHES: dict[str, Callable[[], list[Row]]] = {
    "claim-running": claim_running,
    "claim-stopped": claim_stopped,
    "cold": cold_creation,
    "cold-debian": cold_debian,
    "idle": idle,
}


def main() -> None:
    if sys.argv[1:2] == ["faults"]:
        bench_faults.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, epilog="scripts/bench faults: what breaks under load and faults"
    )
    parser.add_argument("--only", choices=sorted(BENCHES), help="run one of them")
    parser.add_argument("--json", action="store_true", help="print a list for programs")
    chosen = parser.parse_args()
    rows: list[Row] = []
    for name, bench in BENCHES.items():
        if chosen.only in (None, name):
            rows += bench()
    if chosen.json:
        print(json.dumps([{**asdict(row), "ok": row.ok} for row in rows], indent=2))
    else:
        for row in rows:
            bound = (
                "" if row.bound is None else f"  bound {row.bound:g} {row.unit}  {'ok' if row.ok else 'MISSED'}"
            )
            print(f"{row.what:<52} {row.value:9.2f} {row.unit}{bound}")
    sys.exit(0 if all(row.ok for row in rows) else 1)


if __name__ == "__main__":
    main()
