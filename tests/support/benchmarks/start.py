"""How long a whole command takes that does next to nothing: loading libraries, opening the store, looking once."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from tests.support.benchmarks.growth import serving_commands
from tests.support.benchmarks.off_machines import off_machines
from tests.support.benchmarks.row import Row

ROUNDS = 15
_MACHINES = 10


def start() -> list[Row]:
    """Whole processes, with bytecode as an installed package has it."""
    with off_machines(_MACHINES) as made:
        bare = [sys.executable, "-c", "pass"]
        commands = {
            "python": bare,
            "help": made.command("--help"),
            "status": made.command("status"),
            "scale": made.command("scale", "web", "0"),
        }
        taken = {name: seconds_of(command) for name, command in commands.items()}
        with serving_commands(made):
            served = {name: seconds_of(commands[name]) for name in ("status", "scale")}
    return [
        Row("python that does nothing, whole process", taken["python"], "s"),
        Row("understudy --help, whole process", taken["help"], "s", 0.15),
        Row(f"understudy status of {_MACHINES} machines, whole process", taken["status"], "s", 0.40),
        Row("understudy scale to what there is, whole process", taken["scale"], "s"),
        Row("understudy status beside a controller, whole process", served["status"], "s"),
        Row("understudy scale to what there is beside a controller, whole process", served["scale"], "s"),
    ]


def seconds_of(command: list[str]) -> float:
    """Median. The first run writes bytecode, and does not count."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.monotonic()
        subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
        taken.append(time.monotonic() - began)
    return statistics.median(taken[1:])
