"""The product itself: a declared set that grows from nothing, by forks, and by boots."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import ClassVar

from tests.support.benchmarks.growth import serving_commands
from tests.support.benchmarks.tools.lab import ADDRESSES, DISK_GIB, MEMORY_MIB, NETWORK, SUBNET, Lab
from tests.support.benchmarks.tools.tool import Command, Tool
from tests.support.benchmarks.tools.toolbox import NotMeasured
from tests.support.installation import Failed, Installation

_SET = """\
kind: ScaleSet
name: web
image: micro
instances: 0
machine: {{vcpus: 1, memory: {memory}MiB, disk: {disk}GiB}}
setup: {{fork: {fork}}}
readiness:
  - {{http: {{port: 80, path: /, status: 200}}, interval: 1s, failures: 3}}
endpoints:
  - {{name: http, protocol: http, address: 127.0.0.1, listen: {port}, port: 80}}
"""


class Understudy(Tool):
    """With balancer, network filter and `understudy serve`, as an operator has it. The first machine boots, and
    leaves a golden image that is kept while the set is declared: each later one is a fork."""

    name = "understudy"
    differs = "machines go on from a golden image; also a balancer, a console log, an agent and a network filter"
    serves: ClassVar[bool] = True
    fork: ClassVar[str] = "true"
    directory: ClassVar[str] = "understudy"
    port: ClassVar[int] = 8080

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._site = Installation(lab.directory(self.directory), "127.0.0", lab.host.enter)
        self._is_warm = False
        self._serving = ExitStack()

    @property
    def enter(self) -> list[str]:
        return self.lab.host.enter

    def prepare(self) -> None:
        network = f'[network]\nmode = "network"\nname = "{NETWORK}"\nrange = "{SUBNET}.0/29"\n'
        self._site.configure(network=network)
        self._site.run("image", "add", "micro", str(self.lab.base))
        text = _SET.format(memory=MEMORY_MIB, disk=DISK_GIB, fork=self.fork, port=self.port)
        self._site.run("apply", str(self._site.write("web.yaml", text)))
        if self.serves:
            self._serving.enter_context(serving_commands(self._site))

    def command(self, names: Sequence[str]) -> Command:
        """It names its machines itself."""
        assert len(names) <= len(ADDRESSES)
        return self._site.command("scale", "web", str(len(names)))[len(self._site.enter) :]

    def clean(self, names: Sequence[str]) -> None:
        try:
            forked = [row["forked"] for row in self._site.members("instance")]
        finally:
            self._site.run("scale", "web", "0")
        # What was measured is what the row says, but in its first run.
        if self._is_warm and forked != [self.fork == "true"] * len(names):
            raise NotMeasured(f"of {len(names)} machines {sum(forked)} are forks: {self._last_events()}")
        self._is_warm = True

    def close(self) -> None:
        try:
            self._serving.close()
        finally:
            self._site.remove()

    def _last_events(self) -> str:
        try:
            return self._site.run("events", "web").strip().replace("\n", "; ")[-500:]
        except Failed as error:
            return str(error)


class UnderstudyAlone(Understudy):
    name = "understudy without serve"
    serves = False
    directory = "understudy-alone"
    port = 8082


class UnderstudyBoots(Understudy):
    name = "understudy, setup.fork: false"
    differs = "also a balancer, a console log, an agent and a network filter"
    fork = "false"
    directory = "understudy-boots"
    port = 8081
