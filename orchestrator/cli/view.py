"""status, events, schema: looking changes nothing."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.context import JsonOption, opened, print_json, say

if TYPE_CHECKING:
    from orchestrator.daemon.runtime import Runtime
    from orchestrator.models.events import Event

OptionalSet = Annotated[str | None, typer.Argument(metavar="[SET]", help="One set; all of them otherwise.")]
_WATCH_SECONDS = 1.0
_CONTINUED = " " * 21 + "| "  # before the further lines of an event


def status(
    name: OptionalSet = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show again until Ctrl-C.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show instances, the standby pool by zone and state, endpoints, health and last reasons.

    Examples:

      understudy status

      understudy status web --watch

      understudy status web --json
    """
    with opened() as runtime:
        while True:
            found = _read(runtime, name)
            if watch and not json_:
                say("\x1b[2J\x1b[H")
            if json_:
                print_json(found[0] if name is not None else found)
            else:
                _print_hold(runtime)
                for one in found:
                    _print_set(one)
                if not found:
                    say("no scale sets; declare one: understudy apply FILE")
                if name is None:
                    _print_left_drives(runtime)
            if not watch:
                return
            time.sleep(_WATCH_SECONDS)


def _read(runtime: Runtime, name: str | None) -> list[dict[str, Any]]:
    from orchestrator.service.lookup import find_newer_image, get_set
    from orchestrator.service.status import set_status

    if name is not None:
        get_set(runtime.store, name)
    observed, now = runtime.observe(), runtime.clock.now()
    desired = runtime.desired(observed)
    return [
        set_status(wanted, desired, observed, now, find_newer_image(runtime.store, wanted))
        for wanted in desired.sets
        if name is None or wanted.name == name
    ]


def _print_hold(runtime: Runtime) -> None:
    """Why what is shown cannot be trusted."""
    from orchestrator.planner.strangers import FIX

    why = runtime.why_held()
    if why:
        say(f"nothing is done: {why}\n  ({FIX})")


def _print_left_drives(runtime: Runtime) -> None:
    from orchestrator.service.drives import left_drives

    for words in left_drives(runtime.store):
        say(words)


def _print_set(one: dict[str, Any]) -> None:
    counts = one["instances"]
    state = "as declared" if one["converged"] else "being deleted" if one["deleting"] else "changing"
    if one["reason"]:
        state = "waiting"
    say(f"{one['name']}  image {one['image']}  {counts['in_service']}/{counts['desired']} in service  {state}")
    if one["reason"]:
        say(f"  reason: {one['reason']}")
    if one["health"] != "healthy":
        say(f"  {one['health']}: {one['health_reason']}")
    _print_drift(one)
    for endpoint in one["endpoints"]:
        say(f"  endpoint {endpoint['name']}: {endpoint['address']}:{endpoint['port']}")
    if one["standby"]:
        _print_pool(one["standby"])
    if len(one["zones"]) > 1:
        _print_zones(one["zones"])
    for row in sorted(one["members"], key=lambda row: (row["role"], row["name"])):
        known = (("in rotation", row["in_rotation"]), ("older model", row["stale"]), ("fork", row["forked"]))
        marks = [word for word, on in known if on]
        place = f"{row['host']}/{row['zone']}"
        say(
            f"  {row['name']:<20} {row['role']:<9} {row['phase']:<13} {row['power']:<10} {place}"
            f"  {row['address']:<15} #{row['incarnation']} {', '.join(marks)}".rstrip()
        )
        say(f"      {row['reason'].partition(chr(10))[0]}")
    for drive in one["drives"]:
        _print_drive(drive)


def _print_drive(drive: dict[str, Any]) -> None:
    holder = "being deleted" if drive["deleting"] else drive["member"] or "free"
    size = f"{drive['size'] // 2**20} MiB"
    say(f"  drive {drive['name']}-{drive['slot']:<3} {size:<10} {drive['host']:<10} {holder}")


def _print_zones(zones: dict[str, Any]) -> None:
    for name, zone in zones.items():
        instances, pool = zone["instances"], zone["standby"]
        counts = f"{instances['in_service']}/{instances['desired']} in service"
        counts += f", {pool['ready']} of {pool['target']} ready in the pool"
        say(f"  zone {name}: {counts}" + ("" if zone["declared"] else "; not declared any more"))


_ROLLOUT_WORDS = {
    "pool": "the standby pool is renewed first",
    "rolling": "instances are replaced",
    "paused": "paused",
    "stopped": "stopped",
}


def _print_drift(one: dict[str, Any]) -> None:
    if one["newer_image"]:
        say(f"  image {one['newer_image']} is newer: applying the file again rolls it out")
    if one["rollout"]["state"] != "none":
        _print_rollout(one["rollout"])


def _print_rollout(rollout: dict[str, Any]) -> None:
    why = f": {rollout['reason']}" if rollout["reason"] else ""
    say(
        f"  rollout: {_ROLLOUT_WORDS[rollout['state']]}, {rollout['updated']} of the new model in service, "
        f"{rollout['stale']} of an older one{why}"
    )


def _print_pool(pool: dict[str, Any]) -> None:
    say(
        f"  standby pool: {pool['ready']} of {pool['target']} ready, kept {_state_words(pool['state'])}, "
        f"max_ready {pool['max_ready']}, min_ready {pool['min_ready']}, {pool['health']}"
    )
    for zone, counts in pool["zones"].items():
        say(f"    zone {zone}: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if pool["reason"]:
        say(f"    reason: {pool['reason']}")


def show_pool(runtime: Runtime, name: str, as_json: bool) -> None:
    """`understudy pool SET` without options; the JSON is `standby` of the status."""
    found = _read(runtime, name)[0]
    if as_json:
        print_json(found["standby"])
    elif found["standby"] is None:
        say(f"{name} has no standby pool; create one: understudy pool {name} --max-ready N")
    else:
        _print_pool(found["standby"])


def events(
    name: OptionalSet = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what happened and why, oldest first.

    Examples:

      understudy events web

      understudy events --follow
    """
    from orchestrator.service.lookup import get_set

    with opened() as runtime:
        last = 0
        while True:
            for event in runtime.store.list_events(name, after=last):
                last = event.id
                _print_event(event, as_json=json_)
            if name is not None and not last and not follow:
                get_set(runtime.store, name)  # of a set that was deleted there are events
            if not follow:
                return
            time.sleep(0.2)


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        import json

        say(json.dumps(vars(event)))
        return
    say(event_text(event))


def event_text(event: Event) -> str:
    """One line, and one for each further line of its reason."""
    moment = datetime.fromtimestamp(event.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    head = f"{moment}  {event.kind:<18} {event.member or event.set_name:<20} "
    return head + event.reason.replace("\n", "\n" + _CONTINUED)


def schema() -> None:
    """Print the JSON Schema of the scale set file.

    Examples:

      understudy schema > scaleset.schema.json
    """
    from orchestrator.models.spec import ScaleSetSpec

    print_json(ScaleSetSpec.model_json_schema(by_alias=True))


def _state_words(state: str | dict[str, str]) -> str:
    return state if isinstance(state, str) else ", ".join(f"{share} {name}" for name, share in state.items())
