"""`adopt`: the records of a store that was lost, or is an old copy, made again from what is there.

Everything is read first; what cannot be adopted is refused before anything is written; then one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.ledger import Ledger
from orchestrator.errors import HostError, NotFound, SpecError
from orchestrator.models.adoption import Adoption, Declaration, HostSurvey
from orchestrator.models.members import Image
from orchestrator.models.spec import ScaleSetSpec, model_digest
from orchestrator.planner.adoption import Known, plan_adoption
from orchestrator.store import Store


class Surveyed(Protocol):
    """A host that can be looked at for `adopt`."""

    def survey(self) -> HostSurvey:
        """Raises HostError."""


def find_adoption(
    store: Store,
    ledger: Ledger,
    hosts: Mapping[str, Surveyed],
    prefix: str,
    given: Sequence[ScaleSetSpec] = (),
    file: str = "",
) -> Adoption:
    """What would be written. `given`: what `file` (its absolute path) declares. Raises HostError if a host does
    not answer, Conflict if a machine cannot be adopted, NotFound if the image of a given set is missing."""
    surveys = [_survey(name, host) for name, host in hosts.items()]
    # After the hosts: a record that a controller has just written describes what was seen, or more.
    snapshot = store.snapshot()
    copies = ledger.declarations()
    declared = (one.image for one in copies if not one.image.is_lost)
    images = {one.ref: one for one in (*declared, *ledger.images(), *store.list_images())}
    known = Known(
        prefix=prefix,
        installation=store.installation(),
        sets=tuple(Declaration.of(one) for one in snapshot.sets),
        members=tuple(replace(one, drives=()) for one in snapshot.members),
        drives=snapshot.drives,
        departed=store.find_departed(one.member for survey in surveys for one in survey.machines),
        copies=copies,
        given=tuple(_declare(spec, list(images.values()), file) for spec in given),
        images=tuple(images.values()),
    )
    return plan_adoption(known, surveys, store.now())


def missing_files(adoption: Adoption, images: Path) -> tuple[str, ...]:
    """A note for each image of a set whose file is not in the repository."""
    wanted = {one.declared.image.ref: one.declared.image for one in adoption.sets if not one.declared.deleting}
    return tuple(
        f"the file of image {ref} is missing, no new machine can be made: understudy image add {image.name} FILE "
        f"--sha256 {image.digest}"
        for ref, image in sorted(wanted.items())
        if not (images / f"{image.digest}.qcow2").exists()
    )


def _survey(name: str, host: Surveyed) -> HostSurvey:
    try:
        return host.survey()
    except HostError as error:
        raise HostError(
            f"nothing is adopted: host {name!r} cannot be looked at: {error.message}",
            "bring it back; or, if it is lost for good, take it out of config.toml",
        ) from error


def _declare(spec: ScaleSetSpec, images: Sequence[Image], file: str) -> Declaration:
    name, _, version = spec.image.partition(":")
    found = [one for one in images if one.name == name and (not version or one.version == int(version))]
    if not found:
        known = ", ".join(sorted(one.ref for one in images)) or "none"
        raise NotFound(
            f"set {spec.name!r}: image {spec.image!r} is missing",
            f"run: understudy adopt without the file, then: understudy image add {name} FILE; images: {known}",
        )
    image = max(found, key=lambda one: one.version)
    return Declaration(spec, model_digest(spec, image.digest), image, 0, file=file)


def refuse_unneeded(given: Sequence[ScaleSetSpec], why_held: str) -> None:
    """Raises SpecError: a file is declared by `apply` where nothing was lost."""
    if given and not why_held:
        raise SpecError(
            "nothing was lost: the store knows everything", "to declare the file: understudy apply FILE"
        )


def adoption_report(adoption: Adoption, why_held: str) -> dict[str, Any]:
    """As `adopt --json` prints it; keys as published in docs/recovery.md."""
    return {
        "reason": why_held,
        "sets": [
            {
                "name": one.declared.name,
                "instances": one.declared.spec.instances,
                "declaration": one.source.value,
                "deleting": one.declared.deleting,
                "machines": one.found,
            }
            for one in adoption.sets
        ],
        "members": [
            {
                "name": one.name,
                "set": one.set_name,
                "role": one.role.value,
                "phase": one.phase.value,
                "host": one.host,
                "address": one.address,
                "incarnation": one.incarnation,
            }
            for one in adoption.members
        ],
        "forgotten": [one.name for one in adoption.dropped],
        "drives": [
            {"set": one.set_name, "name": one.name, "slot": one.slot, "host": one.host, "member": one.member}
            for one in adoption.drives
        ],
        "foreign": [{"host": host, "domain": domain} for host, domain in adoption.foreign],
        "notes": list(adoption.notes),
    }


def adoption_words(report: Mapping[str, Any]) -> list[str]:
    """The same for reading."""
    lines = [f"why: {report['reason']}"] if report["reason"] else []
    for one in report["sets"]:
        gone = ", being deleted" if one["deleting"] else ""
        lines.append(
            f"{one['name']}: {one['instances']} instances declared (from the {one['declaration']}), "
            f"{one['machines']} machines found{gone}"
        )
        lines += [
            f"  {row['name']}  {row['role']}, {row['phase']}, on {row['host']}, {row['address']}"
            for row in report["members"]
            if row["set"] == one["name"]
        ]
    for one in report["drives"]:
        holder = f"held by {one['member']}" if one["member"] else "free"
        lines.append(f"drive {one['name']}-{one['slot']} of {one['set']} on {one['host']}: {holder}")
    lines += [f"note: {words}" for words in report["notes"]]
    lines += [f"left alone: domain {one['domain']} on {one['host']} is not ours" for one in report["foreign"]]
    return lines
