"""backup, restore, adopt: what to do before the store is lost, and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.context import JsonOption, TimeoutOption, opened, print_json, say, seconds
from orchestrator.cli.sets import carry_out_wish, packed_spec
from orchestrator.errors import Conflict

if TYPE_CHECKING:
    from orchestrator.daemon.runtime import Runtime
    from orchestrator.models.adoption import Adoption
    from orchestrator.models.spec import ScaleSetSpec

ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be rebuilt; change nothing.")]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write (tar).")],
    force: ForceOption = False,
) -> None:
    """Copy the installation's state into one file, while everything goes on.

    The store, config.toml, keys, applied uploads and passwords, and declarations: keep the file as you keep keys.
    Images and disks are not in it.

    Examples:

      understudy backup /backup/understudy.tar

      understudy backup /backup/understudy.tar --force
    """
    from orchestrator.service.backup import write_backup

    with opened() as runtime:
        runtime.refuse_if_held(look=False)
        made = write_backup(runtime.store, runtime.paths, file.absolute(), force)
    say(f"{file}: {len(made.files)} files of installation {made.installation}, verified")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive written by backup.")],
    force: ForceOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Put a backup back, then adopt what has changed on the hosts since.

    The store is replaced (the old one is kept beside it); of the other files only missing ones are put back.

    Examples:

      understudy restore /backup/understudy.tar

      understudy --state-dir /var/lib/understudy restore /backup/understudy.tar --force
    """
    from orchestrator.service.backup import restore_backup

    limit = seconds(timeout)
    with opened() as runtime:
        runtime.paths.ensure()
        _refuse_a_store_in_use(runtime, force)
        made = restore_backup(runtime.paths, file, runtime.clock.now())
    say(f"the store is the copy of {made.day}")
    _adopt(None, limit)


def _refuse_a_store_in_use(runtime: Runtime, force: bool) -> None:
    """Without --force only a store with nothing in it is replaced; never one that a controller works with."""
    from orchestrator.errors import StoreError

    if runtime.settings.store not in ("", f"sqlite:///{runtime.paths.database}"):
        raise Conflict(
            "the store is not in the state directory: config.toml says where",
            "put it back with its own tools, then: understudy adopt",
        )
    if not runtime.paths.database.exists():
        return
    try:
        holder = runtime.lease.find_other_holder()
        snapshot = runtime.store.snapshot()
        sets, members = len(snapshot.sets), len(snapshot.members)
        nothing = not (sets or members or runtime.store.list_images())
    except StoreError as error:
        if not force:
            raise Conflict(f"there is a store already: {error.message}", "to replace it, say --force") from error
        return
    finally:
        runtime.close()
    if holder is not None:
        raise Conflict(
            f"a controller ({holder}) works with the store", "end 'understudy serve', then restore again"
        )
    if not nothing and not force:
        raise Conflict(
            f"there is a store already, with {sets} sets and {members} machines",
            "to replace it, say --force; it is kept beside the new one",
        )


def adopt(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Scale set file, where its declaration is lost too.")
    ] = None,
    dry_run: DryRunOption = False,
    json_: JsonOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Rebuild a store that was lost, or is an old copy, from the machines and volumes that are there.

    Declarations come from the copies in the state directory, else from FILE. No machine is restarted or removed;
    nothing of anybody else is touched.

    Examples:

      understudy adopt --dry-run

      understudy adopt

      understudy adopt web.yaml
    """
    limit = seconds(timeout)
    _adopt(file, limit, dry_run, json_)


def _adopt(file: Path | None, limit: float | None, dry_run: bool = False, json_: bool = False) -> None:
    from orchestrator.config.scaleset_file import load_scale_sets
    from orchestrator.service import adopt as service
    from orchestrator.store.adoption import write_adoption

    specs = load_scale_sets(file) if file is not None else []
    with opened() as runtime:
        why = runtime.why_held()
        service.refuse_unneeded(specs, why)
        found = _find(runtime, specs, file) if why else None
        if found is not None and not dry_run:
            write_adoption(runtime.store, found)
        report = service.adoption_report(found, why) if found is not None else {}
        if json_:
            print_json({"needed": bool(why), "dry_run": dry_run, **report})
        else:
            for line in (
                service.adoption_words(report) if report else ["nothing to adopt: the store knows everything"]
            ):
                say(line)
        if found is None or dry_run or json_:
            return
        for one in found.sets:
            carry_out_wish(runtime, one.declared.name, limit)


def _find(runtime: Runtime, specs: list[ScaleSetSpec], file: Path | None) -> Adoption:
    from orchestrator.config.scaleset_file import declaring_file
    from orchestrator.service.adopt import find_adoption, missing_files

    runtime.paths.ensure()
    declaring = declaring_file(file) if file is not None else ""
    whole = [packed_spec(runtime, spec, runtime.paths.uploads, runtime.paths.secrets) for spec in specs]
    found = find_adoption(runtime.store, runtime.ledger, runtime.hosts, runtime.settings.prefix, whole, declaring)
    return replace(found, notes=(*found.notes, *missing_files(found, runtime.paths.images)))
