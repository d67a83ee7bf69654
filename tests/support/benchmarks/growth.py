"""A set of real guests that grows, and how long that takes."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.config.resources import template
from orchestrator.drivers.haproxy.runtime import RuntimeApi
from orchestrator.errors import BalancerError
from orchestrator.models.naming import reachable_port
from orchestrator.models.sightings import Rotation
from tests.support.benchmarks.processes import cpu_seconds
from tests.support.guest_images import guest_image
from tests.support.installation import Failed, Installation, installation, wait_until
from tests.support.specs import web_set

# At rest a controller looks every three seconds; a start takes both processors meanwhile.
_QUIET_SECONDS, _QUIET_SHARE, _QUIET_LOOKS = 0.5, 0.1, 60


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


@contextlib.contextmanager
def serving_commands(made: Installation) -> Iterator[subprocess.Popen[str]]:
    """`understudy serve`, once its command server listens and its own start is over: its first looks would take
    the processors of what is measured."""
    with made.serving() as process:
        sockets = made.root / "private" / "commands"
        wait_until(lambda: list(sockets.glob("*.sock")), 30, "it listens for commands")
        await_quiet(process.pid)
        yield process


def await_quiet(pid: int) -> None:
    """Until the process has done nothing to speak of for a while. Raises RuntimeError if it never does."""
    for _ in range(_QUIET_LOOKS):
        before = cpu_seconds(pid)
        time.sleep(_QUIET_SECONDS)
        if cpu_seconds(pid) - before <= _QUIET_SHARE * _QUIET_SECONDS:
            return
    raise RuntimeError("the controller does not come to rest")


@dataclass(frozen=True)
class Growth:
    """Seconds from the start of the command until all new instances answered, and when that was (epoch)."""

    seconds: float
    answered_at: float


def grow(made: Installation, count: int) -> Growth:
    """`understudy scale web COUNT`, from its start until all new instances answer through the balancer."""
    known = {row["name"] for row in made.members("instance")}
    began_at = time.time()
    process = subprocess.Popen(made.command("scale", "web", str(count)), stdout=subprocess.DEVNULL)
    # Nobody is asked before they are in rotation: on two cores requests, which the other guests would have to
    # answer, slow down what is measured.
    await_true(lambda: process.poll() not in (None, 0) or servers_ready(made) >= count, 0.005)
    answered_at = await_new(made, known, count)
    if process.wait(timeout=300) != 0:
        raise RuntimeError("scale failed")
    return Growth(answered_at - began_at, answered_at)


def servers_ready(made: Installation) -> int:
    """How many servers HAProxy sends requests to."""
    try:
        found, _ = RuntimeApi(made.root / "haproxy" / "stats.sock").look()
    except BalancerError:
        return 0
    return sum(one.state is Rotation.READY and one.is_up for one in found.values())


def await_new(made: Installation, known: set[str], count: int) -> float:
    """When all new instances had answered (epoch). Each round has a client for each instance, all at once: the
    balancer takes its servers in turn, and one client would wait for its turn at the new ones."""
    first: dict[str, float] = {}
    with ThreadPoolExecutor(count) as clients:

        def all_answered() -> bool:
            asked = [clients.submit(ask_when, f"http://{made.endpoint}:8080/") for _ in range(count)]
            for name, at in (one.result() for one in asked):
                if name and name not in known:
                    first[name] = min(at, first.get(name, at))
            return len(first) >= count - len(known)

        await_true(all_answered)
    return max(first.values())


def ask_when(url: str) -> tuple[str, float]:
    """The answer's text and when it was there (epoch)."""
    return ask(url), time.time()


def await_true(happened: Callable[[], bool], pause: float = 0.01) -> None:
    """Looks more often than a test would: what is measured is short."""
    end = time.monotonic() + 300
    while not happened():
        if time.monotonic() > end:
            raise Failed("nothing answers after 300 s")
        time.sleep(pause)


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
