"""audit: what exists against what should."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.context import JsonOption, opened, print_json, say

if TYPE_CHECKING:
    from orchestrator.models.audit import Finding
    from orchestrator.service.audit import Mended, Report


_NOT_ALL_WAS_JUDGED = 4


def audit(
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Remove what is provably ours and left over; put the load balancer right."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Compare what exists on hosts with what should, both ways.

    Exit 0 if all is well; 1 if findings are left; 4 if none are, but a host does not answer, so that nothing of it
    was judged. Machines that are missing are healed by a
    controller, not by this command. Drives are never removed.

    Examples:

      understudy audit

      understudy audit --fix

      understudy audit --json
    """
    from orchestrator.daemon.auditing import open_audit

    with opened() as runtime:
        work = open_audit(runtime, _tell_nobody if json_ else _tell)
        report = work.examine()
        mended = work.mend(report) if fix else []
    done = {one.finding for one in mended if not one.failure}
    left = [one for one in report.findings if one not in done]
    if json_:
        print_json(_as_json(report, mended, left))
    else:
        _show(report, mended, left)
    if left:
        raise typer.Exit(1)
    if report.unknown:
        raise typer.Exit(_NOT_ALL_WAS_JUDGED)


def _tell(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def _tell_nobody(_words: str) -> None:
    """Programs read the result only."""


def _show(report: Report, mended: list[Mended], left: list[Finding]) -> None:
    failures = {one.finding: one.failure for one in mended}
    for one in mended:
        if not one.failure:
            say(f"fixed      {_title(one.finding)}: {one.finding.wrong}")
    for finding in left:
        say(f"{finding.fault.value:<9}  {_title(finding)}: {finding.wrong}")
        say(f"           fix: {finding.fix}")
        if failures.get(finding):
            say(f"           failed: {failures[finding]}")
    for host, reason in sorted(report.unknown.items()):
        say(f"unknown    host {host}: nothing of it was judged: {reason}")
    if left:
        say(f"{len(left)} {'finding is' if len(left) == 1 else 'findings are'} left")
    else:
        say("what exists is what should" if not report.unknown else "nothing was found on the hosts that answer")


def _title(finding: Finding) -> str:
    where = f" on {finding.host}" if finding.host else ""
    return f"{finding.kind.value} {finding.name}{where}"


def _as_json(report: Report, mended: list[Mended], left: list[Finding]) -> dict[str, Any]:
    outcomes = {one.finding: one.failure for one in mended}
    return {
        "clean": not left and not report.unknown,
        "findings": [_finding(one, outcomes) for one in report.findings],
        "left": len(left),
        "unknown": [{"host": host, "reason": reason} for host, reason in sorted(report.unknown.items())],
        "controller_at_work": report.is_worked_on,
    }


def _finding(finding: Finding, outcomes: dict[Finding, str]) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "fault": finding.fault.value,
        "name": finding.name,
        "host": finding.host,
        "wrong": finding.wrong,
        "fix": finding.fix,
        "fixable": finding.is_fixable,
        "fixed": outcomes.get(finding) == "",
        "failure": outcomes.get(finding, ""),
    }
