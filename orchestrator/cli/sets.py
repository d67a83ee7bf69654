"""apply, scale, pool, delete."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.context import (
    JsonOption,
    TimeoutOption,
    opened,
    opened_to_act,
    print_json,
    say,
    seconds,
)
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.daemon.runtime import Runtime
    from orchestrator.models.spec import ScaleSetSpec

SetArgument = Annotated[str, typer.Argument(metavar="SET", help="Name of the scale set.")]


def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Scale set file (YAML).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and why.")] = False,
    timeout: TimeoutOption = None,
    json_: JsonOption = False,
) -> None:
    """Declare the scale sets of FILE and bring the world to match.

    Applying the same file again changes nothing, and takes up whatever was interrupted.

    Examples:

      understudy apply web.yaml

      understudy apply web.yaml --dry-run

      understudy apply web.yaml --dry-run --json

      understudy apply web.yaml --timeout 20min
    """
    from orchestrator.config.rooms import hold_rooms
    from orchestrator.config.scaleset_file import declaring_file, load_scale_sets
    from orchestrator.service import declare

    limit = seconds(timeout)
    if json_ and not dry_run:
        raise SpecError("--json goes with --dry-run only", f"run: understudy apply {file} --dry-run --json")
    specs, declaring = load_scale_sets(file), declaring_file(file)
    with opened_to_act() as runtime:
        if dry_run:
            _preview(runtime, specs, declaring, json_)
            return
        around = runtime.surroundings()
        runtime.paths.ensure()
        declare.check_all(runtime.store, specs, around, declaring)
        with hold_rooms(runtime.paths):
            packed = [packed_spec(runtime, spec, runtime.paths.uploads, runtime.paths.secrets) for spec in specs]
            declare.apply_all(runtime.store, packed, around, declaring)
        for spec in specs:
            carry_out_wish(runtime, spec.name, limit)
        _forget_unneeded(runtime)


def packed_spec(runtime: Runtime, spec: ScaleSetSpec, uploads: Path, secrets: Path | None) -> ScaleSetSpec:
    """The spec with the digests of its uploads and its password; these are kept in the directories."""
    from orchestrator.config.secrets import keep_secrets
    from orchestrator.config.uploads import pack_uploads

    return keep_secrets(pack_uploads(spec, uploads), runtime.identities.secret_digest, secrets)


def _forget_unneeded(runtime: Runtime) -> None:
    """Passwords and upload archives; nobody keeps one meanwhile for a set that is not recorded yet."""
    from orchestrator.config.rooms import hold_rooms
    from orchestrator.config.secrets import prune_secrets
    from orchestrator.config.uploads import prune_uploads

    with hold_rooms(runtime.paths):
        specs = [one.spec for one in runtime.store.snapshot().sets]
        prune_secrets(specs, runtime.paths.secrets)
        prune_uploads(specs, runtime.paths.uploads)


def _preview(runtime: Runtime, specs: list[ScaleSetSpec], declaring: str, as_json: bool) -> None:
    """What a dry run prints; the uploads are packed aside, only to know their digests."""
    from orchestrator.config.scratch import scratch
    from orchestrator.service import declare

    runtime.paths.ensure()
    declare.check_all(runtime.store, specs, runtime.surroundings(), declaring)
    installation = (runtime.settings.prefix, runtime.limits)
    with scratch(runtime.paths.work, "preview-") as aside:
        packed = [packed_spec(runtime, spec, aside, None) for spec in specs]
    previews = []
    for spec in packed:
        plan = declare.preview(runtime.store, spec, runtime.observe(), installation, runtime.clock.now())
        previews.append({"name": spec.name, "steps": [{"reason": step.reason} for step in plan.steps]})
        if not as_json:
            count = len(plan.steps)
            words = f"{count} step{'s' if count > 1 else ''} to begin with" if count else "nothing to do"
            say("\n  ".join([f"{spec.name}: {words}", *(step.reason for step in plan.steps)]))
    if as_json:
        print_json(previews)


def scale(
    name: SetArgument,
    instances: Annotated[int, typer.Argument(metavar="N", min=0, max=100_000, help="Instances wanted.")],
    timeout: TimeoutOption = None,
) -> None:
    """Grow or shrink a set to N instances: from its standby pool first, cold for the rest.

    Examples:

      understudy scale web 5
    """
    from orchestrator.service import declare

    limit = seconds(timeout)
    with opened_to_act() as runtime:
        declare.scale(runtime.store, name, instances, runtime.surroundings())
        carry_out_wish(runtime, name, limit)


class State(enum.StrEnum):
    """Values of --state."""

    running = "running"
    stopped = "stopped"
    hibernated = "hibernated"


def pool(  # noqa: PLR0913 - one for each option
    name: SetArgument,
    max_ready: Annotated[
        int | None, typer.Option("--max-ready", min=0, help="Instances and reserve together.")
    ] = None,
    min_ready: Annotated[
        int | None, typer.Option("--min-ready", min=0, help="Reserve that is always kept.")
    ] = None,
    state: Annotated[State | None, typer.Option("--state", help="How ready members are parked.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Give the pool up.")] = False,
    timeout: TimeoutOption = None,
    json_: JsonOption = False,
) -> None:
    """Create, resize, change or delete a set's standby pool. Without options, show it.

    The pool holds max(min_ready, max_ready - instances) members.

    Examples:

      understudy pool web

      understudy pool web --json

      understudy pool web --max-ready 6 --min-ready 1

      understudy pool web --state running

      understudy pool web --delete
    """
    from orchestrator.cli.view import show_pool
    from orchestrator.service import declare

    limit = seconds(timeout)
    given = {"max_ready": max_ready, "min_ready": min_ready, "state": state.value if state else None}
    changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if delete and changes:
        raise SpecError("--delete goes alone", f"run: understudy pool {name} --delete")
    if json_ and (delete or changes):
        raise SpecError("--json shows the pool and changes nothing", f"run: understudy pool {name} --json")
    with opened() as runtime:
        if not delete and not changes:
            show_pool(runtime, name, json_)
            return
        runtime.refuse_if_held()
        around = runtime.surroundings()
        if delete:
            declare.delete_pool(runtime.store, name, around)
        else:
            declare.change_pool(runtime.store, name, changes, around)
        carry_out_wish(runtime, name, limit)


def delete(
    name: SetArgument,
    delete_drives: Annotated[
        bool, typer.Option("--delete-drives", help="Remove its drives too, and what is on them.")
    ] = False,
    timeout: TimeoutOption = None,
) -> None:
    """Remove a scale set with all its machines, disks, addresses and endpoints.

    Its drives are kept, for a set that is declared under the same name again, unless --delete-drives is given;
    that also removes the drives that a deleted set has left.

    Examples:

      understudy delete web

      understudy delete web --delete-drives
    """
    from orchestrator.service import declare, drives

    limit = seconds(timeout)
    with opened_to_act() as runtime:
        if not (delete_drives and drives.is_only_drives(runtime.store, name)):
            declare.delete(runtime.store, name)
            carry_out_wish(runtime, name, limit)
            _forget_unneeded(runtime)
            say(f"{name}: deleted")
        if delete_drives:
            _delete_drives(runtime, name)
        elif drives.is_only_drives(runtime.store, name):
            say(drives.left_words(name, drives.drives_of(runtime.store, name)))


def _delete_drives(runtime: Runtime, name: str) -> None:
    """One after the other: what was given up stays so if this is interrupted, and is removed the next time."""
    from orchestrator.apply.disks import drive_disk
    from orchestrator.service import drives

    given_up = drives.give_up(runtime.store, name, set(runtime.hosts))
    for drive in given_up:
        runtime.hosts[drive.host].disks.remove_drive(drive_disk(runtime.settings.prefix, drive))
        drives.forget(runtime.store, drive)
        say(f"{name}: drive {drive.title} deleted")


def carry_out_wish(runtime: Runtime, name: str, limit: float | None) -> None:
    from orchestrator.cli.progress import Show
    from orchestrator.daemon.embedded import carry_out
    from orchestrator.models.members import Phase

    with Show(runtime, name) as show:
        carry_out(runtime, name, show, limit)
    wanted = runtime.store.find_set(name)
    if wanted is None:
        return
    after = f" after {show.grown_after:.1f} s" if show.grown_after is not None else ""
    mine = [one for one in runtime.store.snapshot().members if one.set_name == name]
    serving = sum(one.phase is Phase.IN_SERVICE for one in mine)
    stopped = sum(one.phase is Phase.STOPPED for one in mine)
    but = f", {stopped} stopped" if stopped else ""
    say(f"{name}: {serving} in service{but}{after}; standby pool {wanted.standby_target}")
    for endpoint in wanted.spec.endpoints:
        scheme = "http://" if endpoint.protocol == "http" else ""
        say(f"  {endpoint.name}: {scheme}{endpoint.address}:{endpoint.listen}")
