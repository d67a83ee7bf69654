"""What an operator does to a set that carries traffic: one operation after the other, on one installation.

`tests/e2e/test_load.py` asserts what the traffic saw, `scripts/bench faults` prints it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.drivers.haproxy.runtime import RuntimeApi
from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import WEB, web_set
from tests.support.traffic import PATIENCE, Request, Traffic, traffic

# A long answer: its instance, then as many lines as the query says, one each 0.2 s.
SLOW = """\
mkdir -p /srv/www/cgi-bin
cat > /srv/www/cgi-bin/slow <<'SLOW'
#!/bin/sh
echo Content-Type: text/plain
echo
hostname
n=0
while [ $n -lt ${QUERY_STRING:-10} ]; do
    echo line $n
    n=$((n + 1))
    sleep 0.2
done
echo the end
SLOW
chmod +x /srv/www/cgi-bin/slow
"""
SLOW_WEB = WEB + SLOW
NEXT_WEB = SLOW_WEB.replace("httpd -p", "echo second edition > /srv/www/edition\nhttpd -p")
DRAIN_TIMEOUT = 5.0  # seconds, as `web_set` declares it
SECOND_PORT = 8081
WATCHED = 4.0  # seconds after the death of a guest
NOTICED = 1.0  # seconds after it in which HAProxy may still choose it
# One request each 20 ms, for some seconds only: two guests that are emulated on two slow cores have to bear it.
DENSE_RATE, DENSE_CLIENTS, LEAD = 50.0, 10, 1.0


@dataclass(frozen=True)
class Outcome:
    """What traffic saw from the beginning of an operation to its end. `retried`: how often HAProxy sent a request
    again because its instance had refused it or gone."""

    sent: int
    failed: tuple[Request, ...]
    retried: int


@dataclass(frozen=True)
class GuestKilled:
    """`in_flight` failed that were under way when the guest died, `others` that were not; `elsewhere`: how many
    HAProxy saw fail at guests that live. `sent_for` seconds after its death HAProxy chose it for the last time,
    `late` times when it should have known better."""

    sent: int
    in_flight: tuple[Request, ...]
    others: tuple[Request, ...]
    elsewhere: int
    sent_for: float
    late: int

    @property
    def bad(self) -> int:
        return len(self.others) + self.elsewhere + self.late


def judge_kill(
    requests: Sequence[Request], died_at: float, chosen: Sequence[tuple[float, int]], elsewhere: int
) -> GuestKilled:
    """`chosen`: when was looked, from the death on, and how often HAProxy had chosen the guest by then."""
    failed = [one for one in requests if one.failure and one.until >= died_at]
    more = [(at, count - before) for (_, before), (at, count) in pairwise(chosen) if count > before]
    return GuestKilled(
        sent=sum(one.at >= died_at for one in requests),
        in_flight=tuple(one for one in failed if one.at <= died_at),
        others=tuple(one for one in failed if one.at > died_at),
        elsewhere=elsewhere,
        sent_for=max((at - died_at for at, _ in more), default=0.0),
        late=sum(count for at, count in more if at - died_at > NOTICED),
    )


@dataclass(frozen=True)
class Declared:
    """What the file of the set says."""

    instances: int = 2
    standby: str = ""
    user_data: str = SLOW_WEB
    endpoints: int = 1


class Loaded:
    """A set named web of two instances under traffic. Every operation leaves two in service."""

    def __init__(self, site: Installation, client: Traffic) -> None:
        self.site = site
        self.client = client
        self._declared = Declared()

    def apply(self, **changed: Any) -> str:
        """The file as it was before, but for these fields of `Declared`."""
        self._declared = replace(self._declared, **changed)
        return self.site.run("apply", write_file(self.site, self._declared))

    def instances(self) -> list[str]:
        return [row["name"] for row in self.site.members("instance")]

    def any_instance(self) -> str:
        return f"web/{self.instances()[0]}"

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        return [event for event in self.site.json_lines("events", "web") if event["id"] > after]

    def last_event(self) -> int:
        return int(self.events()[-1]["id"])

    def balancer_pid(self) -> int:
        return int((self.site.root / "haproxy" / "haproxy.pid").read_text(encoding="utf-8"))

    def requests_sent_to(self, instance: str) -> int:
        """How often HAProxy chose it for a request so far, by its own count."""
        return self._count("lbtot", instance)

    def errors_except_of(self, instance: str) -> int:
        """How often a request failed at any other, by HAProxy's own count."""
        others = [row for row in self._rows() if row["svname"] not in (instance, "FRONTEND", "BACKEND")]
        return sum(int(row[column] or 0) for row in others for column in ("econ", "eresp"))

    def requests_sent_again(self) -> int:
        """By the HAProxy process that runs now."""
        return self._count("wretr", "BACKEND") + self._count("wredis", "BACKEND")

    def _count(self, column: str, row_name: str) -> int:
        return sum(int(row[column] or 0) for row in self._rows() if row["svname"] == row_name)

    def _rows(self) -> list[dict[str, str]]:
        """HAProxy's statistics: frontends, backends and servers."""
        text = RuntimeApi(self.site.root / "haproxy" / "stats.sock").ask("show stat")
        header, *rows = (line.removeprefix("# ").split(",") for line in text.splitlines() if line)
        return [dict(zip(header, row, strict=False)) for row in rows]

    def qemu_pid(self, instance: str) -> int:
        words = f"guest={self.site.prefix}-{instance},"
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if words in (entry / "cmdline").read_text(encoding="utf-8", errors="replace"):
                        return int(entry.name)
        raise LookupError(f"no QEMU of {instance}")

    def measure(self, operation: Callable[[Loaded], None]) -> Outcome:
        """Perform it; what traffic saw meanwhile, and in the second after it."""
        began, process, retried = time.monotonic(), self.balancer_pid(), self.requests_sent_again()
        operation(self)
        time.sleep(1.0)
        requests = self.client.requests(began)
        retried = self.requests_sent_again() - (retried if self.balancer_pid() == process else 0)
        return Outcome(len(requests), tuple(one for one in requests if one.failure), retried)


def write_file(site: Installation, declared: Declared) -> str:
    text = web_set(site, declared.instances, declared.standby, declared.user_data)
    lines = text.splitlines()
    if declared.endpoints > 1:
        place = next(number for number, line in enumerate(lines) if line.startswith("  - {name: http,"))
        second = lines[place].replace("name: http", "name: second").replace("8080", str(SECOND_PORT))
        lines.insert(place + 1, second)
    return str(site.write("web.yaml", "\n".join(lines) + "\n"))


@contextlib.contextmanager
def loaded(image: Path) -> Iterator[Loaded]:
    """Two instances without a pool, under traffic until the end of the block."""
    with installation() as site:
        site.run("image", "add", "micro", str(image))
        site.run("apply", write_file(site, Declared()))
        with traffic(site.endpoint) as client:
            yield Loaded(site, client)


# ---- operations ----------------------------------------------------------------------------------------------


def scale_out(load: Loaded) -> None:
    load.site.run("scale", "web", "3")


def scale_in(load: Loaded) -> None:
    load.site.run("scale", "web", "2")


def add_endpoint(load: Loaded) -> None:
    """The one change that makes HAProxy load its file anew."""
    before = load.balancer_pid()
    load.apply(endpoints=2)
    assert load.balancer_pid() != before
    assert load.site.fetch(port=SECOND_PORT) in load.instances()


def restart(load: Loaded) -> None:
    load.site.run("restart", load.any_instance())


def reimage(load: Loaded) -> None:
    load.site.run("reimage", load.any_instance())


def restart_controller(load: Loaded) -> None:
    for _ in range(2):
        with load.site.serving():
            time.sleep(0.5)


def kill_controller(load: Loaded) -> None:
    """SIGKILL while a machine is being made; the command that waits for it takes over."""
    first = load.site.start("serve")
    assert first.stdout is not None
    while "controller is running" not in first.stdout.readline():
        assert first.poll() is None
    command = load.site.start("scale", "web", "3")
    wait_until(lambda: len(load.site.domains()) == 3, 30, "a machine is being made")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    said, _ = command.communicate(timeout=120)
    assert command.returncode == 0, said
    load.site.run("scale", "web", "2")


def claim_running(load: Loaded) -> None:
    """The pool is full again at the end."""
    _claim(load, "running")
    load.site.run("scale", "web", "2")


def claim_stopped(load: Loaded) -> None:
    """There is no pool any more at the end."""
    _claim(load, "stopped")
    load.apply(standby="")


def _claim(load: Loaded, state: str) -> None:
    load.apply(standby=f"{{state: {state}, max_ready: 3}}")
    (member,) = (row["name"] for row in load.site.members("standby"))
    load.site.run("scale", "web", "3")
    assert member in load.instances()


def roll_model(load: Loaded) -> None:
    before = set(load.instances())
    load.apply(user_data=NEXT_WEB)
    assert not before & set(load.instances())


def kill_guest(load: Loaded, victim: str) -> GuestKilled:
    """SIGKILL of its QEMU while no controller runs: HAProxy has to find out by itself. It stays dead.

    More traffic than otherwise, so that hardly a moment passes without a request that could be lost.
    """
    with traffic(load.site.endpoint, rate=DENSE_RATE, clients=DENSE_CLIENTS) as dense:
        time.sleep(LEAD)
        errors = load.errors_except_of(victim)
        chosen = [(time.monotonic(), load.requests_sent_to(victim))]
        os.kill(load.qemu_pid(victim), signal.SIGKILL)
        died_at = time.monotonic()
        while time.monotonic() < died_at + WATCHED:
            chosen.append((time.monotonic(), load.requests_sent_to(victim)))
            time.sleep(0.02)
        errors = load.errors_except_of(victim) - errors
    requests = [*load.client.requests(died_at - PATIENCE), *dense.requests(died_at - PATIENCE)]
    return judge_kill(requests, died_at, chosen, errors)


def repair(load: Loaded) -> None:
    """A command looks, and starts what was killed."""
    load.site.run("apply", str(load.site.root / "web.yaml"))


OPERATIONS: dict[str, Callable[[Loaded], None]] = {
    "scale out, cold": scale_out,
    "scale in": scale_in,
    "endpoint added, HAProxy loads anew": add_endpoint,
    "restart by the product": restart,
    "reimage": reimage,
    "controller stopped and started": restart_controller,
    "controller killed at work": kill_controller,
    "claim from a running pool": claim_running,
    "claim from a stopped pool": claim_stopped,
    "rolling model change": roll_model,
}
