"""doctor and serve: the host and the controller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.context import JsonOption, opened, print_json, say, start_log

if TYPE_CHECKING:
    from orchestrator.daemon.runtime import Runtime
    from orchestrator.doctor import Subject


def doctor(json_: JsonOption = False) -> None:
    """Check this installation's hosts; every fault is named with its fix. Exit 1 on faults.

    Examples:

      understudy doctor
    """
    from orchestrator.doctor import examine

    marks = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}
    with opened() as runtime:
        findings = []
        for finding in examine(_subject(runtime)):
            findings.append(finding)
            if not json_:
                say(f"{marks[finding.level]}  {finding.name}: {finding.text}")
                if finding.fix:
                    say(f"           fix: {finding.fix}")
    faults = sum(finding.level == "fault" for finding in findings)
    if json_:
        print_json({"ok": faults == 0, "findings": [vars(finding) for finding in findings]})
    elif faults == 0:
        say("everything that is needed is there")
    if faults:
        raise typer.Exit(1)


def _subject(runtime: Runtime) -> Subject:
    from orchestrator.doctor import Subject

    return Subject(
        settings=runtime.settings,
        state_dir=_existing(runtime),
        connections=runtime.connections,
        volumes=runtime.volumes,
        accelerator=lambda host: runtime.accelerator(host, again=True),
        own_addresses=frozenset(member.address for member in runtime.store.snapshot().members),
        network=lambda: runtime.addressing,
    )


def _existing(runtime: Runtime) -> Path:
    runtime.paths.ensure()
    return runtime.paths.root


def serve() -> None:
    """Run the controller: heals what differs from what is declared, until SIGTERM or Ctrl-C.

    Commands given meanwhile are carried out by it.

    Examples:

      understudy serve
    """
    import logging

    from orchestrator.daemon.serve import serve as run

    start_log(logging.INFO)
    with opened() as runtime:
        run(runtime, lambda: say("understudy: controller is running"))
