"""What a controller costs while nothing happens, over many machines that are off (see `off_machines`)."""

from __future__ import annotations

import time

import libvirt

from orchestrator.daemon.runtime import Runtime
from tests.support.benchmarks.off_machines import off_machines
from tests.support.benchmarks.processes import cpu_seconds, resident_megabytes
from tests.support.benchmarks.row import Row
from tests.support.benchmarks.running_machines import running_machines

FEW, MANY = 1_000, 10_000
ROUNDS = 100
_IDLE_SECONDS = 30.0
# As `drivers.libvirt.machine_view` asks.
_SAVED = libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE
_STATE, _NOWAIT = libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


def idle_loop() -> list[Row]:
    """One turn of the loop against the libvirt calls in it, in turns; then the share of `understudy serve`."""
    with off_machines(FEW) as made:
        calls, turn = seconds_of_turn(Runtime(made.root), made.uri)
        with made.serving() as process:
            time.sleep(5)
            before, began = cpu_seconds(process.pid), time.monotonic()
            time.sleep(_IDLE_SECONDS)
            share = (cpu_seconds(process.pid) - before) / (time.monotonic() - began)
    with running_machines(FEW) as runtime:
        _, running = seconds_of_turn(runtime)
    return [
        Row("bulk libvirt calls over 1,000 machines that are off", calls * 1000, "ms"),
        Row("turn of the idle loop over 1,000 machines that are off", turn * 1000, "ms"),
        Row("turn of the idle loop : its bulk libvirt calls", turn / calls, "x", 2.0),
        Row("idle controller, 1,000 machines: share of one core", share * 100, "%", 2.0),
        Row("turn of the idle loop, 1,000 servers in HAProxy, test driver", running * 1000, "ms"),
    ]


def seconds_of_turn(runtime: Runtime, uri: str = "") -> tuple[float, float]:
    """(the libvirt calls of a look alone, 0 without `uri`; a whole turn): the shortest of each, as what disturbs
    only adds."""
    connection = libvirt.open(uri) if uri else None
    controller = runtime.controller()
    calls, turns = [], []
    try:
        assert runtime.lease.take()
        while controller.turn() == 0.0:
            pass  # the first looks learn whose the machines are
        for _ in range(ROUNDS):
            began = time.perf_counter()
            if connection is not None:
                look(connection)
            between = time.perf_counter()
            assert runtime.lease.renew()  # as a turn does that comes seconds after the last one
            controller.turn()
            calls.append(between - began)
            turns.append(time.perf_counter() - between)
        runtime.lease.release()
    finally:
        if connection is not None:
            connection.close()
        runtime.close()
    return min(calls), min(turns)


def look(connection: libvirt.virConnect) -> None:
    connection.isAlive()
    connection.getInfo()
    connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    connection.listAllDomains(_SAVED)
    connection.getAllDomainStats(_STATE, _NOWAIT)


def memory() -> list[Row]:
    """`understudy serve` over 10,000 machines, once it has looked at them a few times."""
    with off_machines(MANY) as made:
        began = time.monotonic()
        with made.serving() as process:
            ready = time.monotonic() - began
            looks = cpu_seconds(process.pid)
            time.sleep(_IDLE_SECONDS)
            share = (cpu_seconds(process.pid) - looks) / _IDLE_SECONDS
            resident = resident_megabytes(process.pid)
    return [
        Row("controller, 10,000 machines: start until its first look is over", ready, "s"),
        Row("idle controller, 10,000 machines: share of one core", share * 100, "%"),
        Row("idle controller, 10,000 machines: resident memory", resident, "MB", 400.0),
    ]
