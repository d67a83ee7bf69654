"""ssh and console: into one machine."""

from __future__ import annotations

import os
import select
import shutil
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from orchestrator.cli.context import opened, say
from orchestrator.cli.instances import TargetArgument
from orchestrator.errors import Conflict, NotFound, UnderstudyError

CommandArgument = Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND]", help="What to run there.")]
_ESCAPE = b"\x1d"  # Ctrl-]


def ssh(target: TargetArgument, command: CommandArgument = None) -> None:
    """Log in to an instance as root, its host key strictly checked; or run COMMAND there.

    Examples:

      understudy ssh web/4tz9k

      understudy ssh web/4tz9k -- uptime
    """
    from orchestrator.config.scratch import scratch
    from orchestrator.render.ssh import render_known_hosts
    from orchestrator.service.lookup import get_set
    from orchestrator.service.members import find_member

    tool = shutil.which("ssh")
    if tool is None:
        raise UnderstudyError("the ssh client is not installed", "apt-get install openssh-client")
    with opened() as runtime:
        member = find_member(runtime.store, target)
        answer_file = get_set(runtime.store, member.set_name).spec.setup.answer_file
        if answer_file != "cloud-init":
            raise Conflict(
                f"{member.name} cannot be reached by SSH: only 'answer_file: cloud-init' brings keys, this is "
                f"{answer_file!r}",
                f"see its console: understudy console {target}",
            )
        where = runtime.executor.machines.guest_address(member)
        key = runtime.paths.operator_key
        with scratch(runtime.paths.work, "ssh-") as directory:
            known = directory / "known_hosts"
            known.write_text(render_known_hosts(where.address, where.ssh_port, where.host_key), encoding="utf-8")
            options = {
                "UserKnownHostsFile": str(known),
                "GlobalKnownHostsFile": "/dev/null",
                "StrictHostKeyChecking": "yes",
                "IdentitiesOnly": "yes",
                "IdentityFile": str(key),
                "LogLevel": "ERROR",
            }
            arguments = [tool, "-F", "none", "-p", str(where.ssh_port), "-l", "root"]
            for name, value in options.items():
                arguments += ["-o", f"{name}={value}"]
            status = os.spawnv(os.P_WAIT, tool, [*arguments, where.address, *(command or [])])  # noqa: S606
    raise typer.Exit(status)


def console(
    target: TargetArgument,
    log: Annotated[bool, typer.Option("--log", help="Print what the console has shown so far, and end.")] = False,
) -> None:
    """Connect to an instance's serial console; Ctrl-] leaves. Without a terminal, print its log.

    Examples:

      understudy console web/4tz9k

      understudy console web/4tz9k --log
    """
    from orchestrator.models.naming import domain_name
    from orchestrator.service.members import find_member

    with opened() as runtime:
        member = find_member(runtime.store, target)
        host = runtime.host(member.host)
        domain = domain_name(runtime.settings.prefix, member.name)
        if log or not (sys.stdin.isatty() and sys.stdout.isatty()):
            shown = host.console_tail(domain, member.incarnation, size=2**20)
            if not shown and (why := host.why_no_console_log()):
                raise NotFound(
                    f"what the console of {member.name} has shown is not kept on host {member.host!r}: {why}",
                    f"see what it shows from now on: understudy console {target}; or on that host: "
                    f"virsh console {domain}",
                )
            say(shown)
            return
        say(f"connected to {member.name}; Ctrl-] leaves")
        _attach(host.open_console(domain))


def _attach(stream: Any) -> None:
    """Bytes both ways until Ctrl-] or the end of the machine. The terminal is put back in any case."""
    import termios
    import threading
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    done = threading.Event()
    reader = threading.Thread(target=_copy_out, args=(stream, done), daemon=True)
    try:
        tty.setraw(stdin)
        reader.start()
        while not done.is_set():
            ready, _, _ = select.select([stdin], [], [], 0.2)
            if ready:
                typed = os.read(stdin, 1024)
                if not typed or _ESCAPE in typed:
                    break
                stream.send(typed)
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        with suppress(Exception):
            stream.abort()


def _copy_out(stream: Any, done: Any) -> None:
    with suppress(Exception):
        while chunk := stream.recv(4096):
            os.write(sys.stdout.fileno(), chunk)
    done.set()
