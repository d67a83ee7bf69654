"""An installation with many machines that run, as far as libvirt's test driver says so: a running pool, each
member a server in maintenance of a real HAProxy.

The driver lives in this process. The one thing that it cannot say, how much memory its node has, is said for it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.daemon.runtime import Runtime
from orchestrator.drivers.libvirt import LibvirtConnection
from orchestrator.models.balancing import BalancerConfig
from orchestrator.models.members import Member, PoolState
from tests.support.benchmarks.off_machines import record_pool, render_bare
from tests.support.installation import BASE, Installation

_NODE_KIB = 2**30


class NodeWithMemory:
    """A connection to the test driver."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def getMemoryStats(self, _cells: int) -> dict[str, int]:  # noqa: N802 - as libvirt calls it
        return {"total": _NODE_KIB, "free": _NODE_KIB}


class TestDriverConnection(LibvirtConnection):
    def get(self) -> Any:
        return NodeWithMemory(super().get())


class TestDriverRuntime(Runtime):
    @cached_property
    def connections(self) -> dict[str, LibvirtConnection]:
        return {host.name: TestDriverConnection(host.uri) for host in self.settings.hosts}


@contextlib.contextmanager
def running_machines(count: int) -> Iterator[TestDriverRuntime]:
    """The set `web`: no instance, and a pool of that many running members, all as declared."""
    root = BASE / f"understudy-bench-{secrets.token_hex(4)}"
    root.mkdir(mode=0o711)
    node = root / "node.xml"
    made = Installation(root, f"127.{secrets.randbelow(90) + 100}.0", uri=f"test://{node}")
    made.configure(network='[network]\nrange = "127.64.0.0/10"\n')
    endpoint = {"name": "http", "address": made.endpoint, "listen": 8080, "port": 80}
    try:
        known = record_pool(made, count, PoolState.RUNNING, endpoints=[endpoint], setup={"answer_file": "none"})
        runtime = TestDriverRuntime(root)
        write_node(node, made.prefix, runtime.installation, known)
        try:
            yield runtime
        finally:
            runtime.balancer.converge(BalancerConfig())
            runtime.close()
    finally:
        shutil.rmtree(root)


def write_node(file: Path, prefix: str, installation: str, known: list[Member]) -> None:
    """The file that the test driver reads: every domain in it runs."""
    domains = (render_bare(prefix, installation, member, kind="test") for member in known)
    file.write_text(f"<node>{''.join(domains)}</node>", encoding="utf-8")
