"""Which command is in which module. A module is loaded when one of its commands is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

# Command: where it is, and its line in the overview (the first sentence of its own help).
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("host:doctor", "Check this installation's hosts; every fault is named with its fix."),
    "apply": ("sets:apply", "Declare the scale sets of FILE and bring the world to match."),
    "status": (
        "view:status",
        "Show instances, the standby pool by zone and state, endpoints, health and last reasons.",
    ),
    "scale": (
        "sets:scale",
        "Grow or shrink a set to N instances: from its standby pool first, cold for the rest.",
    ),
    "pool": ("sets:pool", "Create, resize, change or delete a set's standby pool."),
    "reimage": (
        "instances:reimage",
        "Give an instance a new machine from the image: same name and address; of its disks only local storage "
        "and drives are kept.",
    ),
    "redeploy": ("instances:redeploy", "Give an instance a new machine without its old local storage."),
    "restart": (
        "instances:restart",
        "Restart an instance cleanly: out of rotation while it is down, its disks kept.",
    ),
    "stop": (
        "instances:stop",
        "Switch an instance off, drained first, and leave it off until `start`; its disks are kept.",
    ),
    "start": (
        "instances:start",
        "Start an instance that was stopped; it gets traffic when its services answer.",
    ),
    "remove": ("instances:remove", "Remove this very instance; the set gets one smaller."),
    "delete": ("sets:delete", "Remove a scale set with all its machines, disks, addresses and endpoints."),
    "events": ("view:events", "Show what happened and why, oldest first."),
    "ssh": (
        "access:ssh",
        "Log in to an instance as root, its host key strictly checked; or run COMMAND there.",
    ),
    "console": ("access:console", "Connect to an instance's serial console; Ctrl-] leaves."),
    "cost": (
        "cost:cost",
        "Show what each set and its standby pool cost a month, and what another state of the pool would save.",
    ),
    "audit": ("audit:audit", "Compare what exists on hosts with what should, both ways."),
    "schema": ("view:schema", "Print the JSON Schema of the scale set file."),
    "backup": (
        "recovery:backup",
        "Copy the installation's state into one file, while everything goes on.",
    ),
    "restore": (
        "recovery:restore",
        "Put a backup back, then adopt what has changed on the hosts since.",
    ),
    "adopt": (
        "recovery:adopt",
        "Rebuild a store that was lost, or is an old copy, from the machines and volumes that are there.",
    ),
    "serve": (
        "host:serve",
        "Run the controller: heals what differs from what is declared, until SIGTERM or Ctrl-C.",
    ),
    "image": ("images:app", "Images: immutable, versioned base disks."),
}


class Catalog(TyperGroup):
    """The commands of `COMMANDS`. The overview is made from the table alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, summary) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def load_command(name: str) -> Any:
    """What the command line library runs: a command, or a group of them."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"orchestrator.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        app = new_app()
        app.command(name)(found)
        found = app
    made = get_command(found)
    made.name = name
    return made


def new_app(**settings: Any) -> typer.Typer:
    """Help and complaints are plain text: drawing boxes takes longer than many a command."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)
