"""Wishes about whole scale sets. All checks come before the first write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.errors import Conflict, NotFound, SpecError
from orchestrator.models.members import Image, ScaleSet
from orchestrator.models.sightings import HostSighting, Observed
from orchestrator.models.spec import Firmware, ScaleSetSpec, StandbySpec, model_digest
from orchestrator.models.steps import ConvergeBalancer, Note, NoteRollout, Plan, Step, set_of
from orchestrator.planner import Desired, Limits, plan
from orchestrator.render.seed import render_user_data
from orchestrator.service.drives import is_only_drives, refuse_smaller_storage, refuse_storage_of_linux
from orchestrator.service.lookup import find_newer_image as find_newer_image
from orchestrator.service.lookup import get_set as get_set
from orchestrator.service.room import Room, check_room
from orchestrator.store import Store
from orchestrator.store.departed import find_departed
from orchestrator.store.store import Snapshot

RECIPES = ("micro", "debian-12")

WhyNotBindable = Callable[[str, int], str]
WhyNoFirmware = Callable[[Firmware, tuple[str, ...] | None], str]
"""What the hosts of these zones (None: of all) lack for it."""


@dataclass(frozen=True)
class Surroundings:
    """What is known of the world when a wish is checked."""

    hosts: tuple[HostSighting, ...]
    memory_ratio: float
    why_not_bindable: WhyNotBindable
    why_no_firmware: WhyNoFirmware


def resolve(store: Store, spec: ScaleSetSpec) -> tuple[Image, str]:
    """(image, model digest). Raises NotFound with the command that would make the image."""
    image = store.find_image(spec.image)
    if image is None:
        name = spec.image.partition(":")[0]
        fix = f"understudy image build {name}" if name in RECIPES else f"understudy image add {name} FILE"
        known = ", ".join(one.ref for one in store.list_images())
        hint = f"run: {fix}" + (f"; images: {known}" if known else "")
        raise NotFound(f"set {spec.name!r}: image {spec.image!r} is missing", hint)
    return image, model_digest(spec, image.digest)


def apply(store: Store, spec: ScaleSetSpec, around: Surroundings) -> bool:
    """Declare the set; False if nothing changed. Raises SpecError, NotFound or Conflict before any write."""
    (changed,) = apply_all(store, [spec], around)
    return changed


def apply_all(store: Store, specs: list[ScaleSetSpec], around: Surroundings, file: str = "") -> list[bool]:
    """The same for the sets of one file: all of them, or none. `file`: its absolute path, if it has one."""
    check_all(store, specs, around, file)
    return store.declare_sets([(spec, *resolve(store, spec)) for spec in specs], file)


def check_all(store: Store, specs: list[ScaleSetSpec], around: Surroundings, file: str = "") -> None:
    """Everything that can be known to be wrong with the wishes of one file, also between them."""
    known = store.snapshot()
    _refuse_renaming(known, [spec.name for spec in specs], file)
    for spec in specs:
        image, model = resolve(store, spec)
        _check_update(spec)
        check(known, spec, image, around)
        wished = ScaleSet(spec, model, image, 1, 0, False, "")
        others = tuple(one for one in known.sets if one.name != spec.name)
        known = Snapshot((*others, wished), known.members, known.drives)


def check(known: Snapshot, spec: ScaleSetSpec, image: Image, around: Surroundings) -> None:
    """Everything that can be known to be wrong with a wish before anything is done for it."""
    disk = spec.machine.disk
    if disk is not None and disk < image.virtual_size:
        raise SpecError(
            f"set {spec.name!r}: machine.disk {disk // 2**20} MiB is smaller than image {image.ref!r} "
            f"({image.virtual_size // 2**20} MiB)",
            f"set disk to at least {-(-image.virtual_size // 2**20)}MiB, or leave it out",
        )
    render_user_data(spec, f"{spec.name}-00000", "127.0.0.1", dict.fromkeys(spec.setup.secrets, "a secret"))
    current = next((one for one in known.sets if one.name == spec.name), None)
    if current is not None and current.deleting:
        raise Conflict(f"set {spec.name!r} is being deleted", "wait for the deletion, then apply again")
    _check_zones(spec, current, around.hosts)
    _check_pool_change(current, spec)
    refuse_smaller_storage(known, spec, current)
    refuse_storage_of_linux(spec, current)
    _check_firmware(spec, current, around.why_no_firmware)
    check_room(known, spec, Room(around.hosts, around.memory_ratio))
    _check_endpoints(known, spec, current, around.why_not_bindable)


def _refuse_renaming(known: Snapshot, names: list[str], file: str) -> None:
    """A set by another name would be a second one, and the first go on with its machines and drives."""
    theirs = [one for one in known.sets if file and one.file == file and not one.deleting]
    left = [one.name for one in theirs if one.name not in names]
    new = [name for name in names if name not in {one.name for one in known.sets}]
    if left and new:
        deletions = ", ".join(f"understudy delete {name}" for name in left)
        raise Conflict(
            f"{file} declares {_quoted(new)}, which is new, and no longer {_quoted(left)}, which is still there: "
            "a set keeps its name",
            f"{deletions}, then apply again; or put {_quoted(left)} back into the file, in place of "
            f"{_quoted(new)} or beside it",
        )


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_zones(spec: ScaleSetSpec, current: ScaleSet | None, hosts: tuple[HostSighting, ...]) -> None:
    known = sorted({host.zone for host in hosts})
    # What the set has already is not asked for again, though its hosts be gone: the set may still be made smaller.
    had = (current.spec.zones if current is not None else None) or ()
    unknown = [zone for zone in spec.zones or () if zone not in (*known, *had)]
    if unknown:
        raise SpecError(
            f"set {spec.name!r}: zones: no host is in zone {unknown[0]!r} (zones: {', '.join(known)})",
            f'choose among these, or add a host with zone = "{unknown[0]}" to config.toml',
        )


def _check_update(spec: ScaleSetSpec) -> None:
    """Of a file only: no `scale` or `remove` is refused for what percentages come to."""
    update, declared = spec.update, spec.instances
    if declared and update.surge(declared) == update.unavailable(declared) == 0:
        raise SpecError(
            f"set {spec.name!r}: update.max_surge {update.max_surge} and update.max_unavailable "
            f"{update.max_unavailable} are both 0 of {declared} instances: none could ever be replaced",
            "raise one of them, for example max_surge: 1",
        )


def _check_firmware(spec: ScaleSetSpec, current: ScaleSet | None, why_no_firmware: WhyNoFirmware) -> None:
    firmware = spec.machine.firmware
    # What the set has already is not asked for again: it must not stand in the way of making it smaller.
    had = current.spec.machine.firmware if current is not None else "bios"
    why = why_no_firmware(firmware, spec.zones) if firmware not in ("bios", had) else ""
    if why:
        packages = "ovmf" if firmware == "uefi" else "ovmf swtpm swtpm-tools"
        raise Conflict(
            f"set {spec.name!r}: machine.firmware {firmware} cannot be had: {why}",
            f"apt-get install {packages}, then restart libvirtd",
        )


def _check_pool_change(current: ScaleSet | None, spec: ScaleSetSpec) -> None:
    """Stopped members have no memory to save: they would have to be started for it (row B10)."""
    if current is None or current.spec.standby is None or spec.standby is None:
        return
    before, after = current.spec.standby.shares, spec.standby.shares
    fewer_stopped = after.get("stopped", 0) < before.get("stopped", 0)
    if fewer_stopped and after.get("hibernated", 0) > before.get("hibernated", 0):
        raise Conflict(
            f"set {spec.name!r}: its standby pool cannot go from stopped to hibernated directly",
            f"go through running: understudy pool {spec.name} --state running, then --state hibernated",
        )


def _check_endpoints(
    known: Snapshot, spec: ScaleSetSpec, current: ScaleSet | None, why_not_bindable: WhyNotBindable
) -> None:
    mine = {(end.address, end.listen) for end in current.spec.endpoints} if current else set()
    for endpoint in spec.endpoints:
        for other in known.sets:
            if other.name == spec.name:
                continue
            if any(
                (one.address, one.listen) == (endpoint.address, endpoint.listen) for one in other.spec.endpoints
            ):
                raise Conflict(
                    f"set {spec.name!r}: endpoint {endpoint.name!r} wants {endpoint.address}:{endpoint.listen}, "
                    f"which belongs to set {other.name!r}",
                    _way_out(spec, other.spec, is_new=current is None),
                )
        if (endpoint.address, endpoint.listen) in mine:
            continue
        why = why_not_bindable(endpoint.address, endpoint.listen)
        if why:
            raise Conflict(
                f"set {spec.name!r}: endpoint {endpoint.name!r} cannot listen on "
                f"{endpoint.address}:{endpoint.listen}: {why}",
                f"choose another port, or see who holds it: ss -ltnp 'sport = :{endpoint.listen}'",
            )


def _way_out(spec: ScaleSetSpec, other: ScaleSetSpec, is_new: bool) -> str:
    if is_new and spec.endpoints == other.endpoints:
        return (
            f"a set keeps its name; if {spec.name!r} is {other.name!r} by another name: "
            f"understudy delete {other.name}, then apply again; else choose another 'listen' port or 'address'"
        )
    return "choose another 'listen' port or 'address'"


def preview(
    store: Store, spec: ScaleSetSpec, observed: Observed, installation: tuple[str, Limits], now: float
) -> Plan:
    """The first plan that applying `spec` would make. Nothing is written."""
    image, model = resolve(store, spec)
    prefix, limits = installation
    known = store.snapshot()
    current = next((one for one in known.sets if one.name == spec.name), None)
    generation = current.generation + 1 if current else 1
    wished = ScaleSet(spec, model, image, generation, generation - 1, False, "")
    if current is not None:
        wished = replace(wished, pool=current.pool, rollout=current.rollout)
    others = [one for one in known.sets if one.name != spec.name]
    gone = find_departed(store, known.members, prefix, observed)
    desired = Desired((*others, wished), known.members, prefix, limits, drives=known.drives, departed=gone)
    first = plan(desired, observed, {}, now)
    # That a wish is met, or a pool full, is a record of ours, nothing that would be done to the world; but that a
    # model is rolled out says what would follow.
    told = [step for step in first.steps if isinstance(step, NoteRollout) and step.events]
    steps = [*told, *(step for step in first.steps if not isinstance(step, Note))]
    steps = [step for step in steps if _concerns(step, spec.name)]
    return replace(first, steps=tuple(steps))


def _concerns(step: Step, name: str) -> bool:
    """Whether the step is about that set; the load balancer is everybody's."""
    if isinstance(step, ConvergeBalancer):
        return any(front.name.partition(".")[0] == name for front in step.config.frontends)
    return set_of(step) == name


def scale(store: Store, name: str, instances: int, around: Surroundings) -> ScaleSet:
    """Set the instance count. Raises NotFound, SpecError."""
    current = get_set(store, name)
    return _redeclare(store, current, current.spec.model_copy(update={"instances": instances}), around)


def change_pool(store: Store, name: str, changes: dict[str, object], around: Surroundings) -> ScaleSet:
    """Change, create (with `max_ready`) or resize the standby pool. Raises NotFound, SpecError."""
    current = get_set(store, name)
    before = current.spec.standby.model_dump() if current.spec.standby else {}
    merged = {**before, **changes}
    if "max_ready" not in merged:
        raise SpecError(
            f"set {name!r} has no standby pool yet", f"create one: understudy pool {name} --max-ready N"
        )
    try:
        standby = StandbySpec.model_validate(merged)
    except ValueError as error:
        words = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())  # type: ignore[attr-defined]
        raise SpecError(f"standby pool of {name!r}: {words}") from error
    return _redeclare(store, current, current.spec.model_copy(update={"standby": standby}), around)


def delete_pool(store: Store, name: str, around: Surroundings) -> ScaleSet:
    """Give the pool up; its members are removed."""
    current = get_set(store, name)
    return _redeclare(store, current, current.spec.model_copy(update={"standby": None}), around)


def delete(store: Store, name: str) -> None:
    """Raises NotFound."""
    if is_only_drives(store, name):
        raise NotFound(
            f"there is no scale set {name!r} any more; its drives are left",
            f"to remove what is on them: understudy delete {name} --delete-drives",
        )
    get_set(store, name)
    store.mark_deleting(name)


def _redeclare(store: Store, current: ScaleSet, spec: ScaleSetSpec, around: Surroundings) -> ScaleSet:
    """Same image version, other numbers; held to the same rules as a file."""
    try:
        spec = ScaleSetSpec.model_validate_json(spec.to_json())
    except ValueError as error:
        raise SpecError(f"set {spec.name!r}: {error}") from error
    check(store.snapshot(), spec, current.image, around)
    if not store.declare_set(spec, current.image, current.model):
        store.touch_set(spec.name)
    return get_set(store, spec.name)
