"""A store's content, made again from what is on the hosts and from copies of the declarations. Pure.

A machine's tag is never ahead of what is true, and its record was never ahead of its tag but while work was under
way. So of machine and record (of a store that is an old one) the machine is believed where it is further.
Nothing that is found is taken away by this: no machine, no volume, no instance by being one too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import Conflict
from orchestrator.lifecycle.table import UNFINISHED
from orchestrator.models.adoption import AdoptedSet, Adoption, Declaration, FoundMachine, HostSurvey, Source
from orchestrator.models.members import Image, Member, Phase, PoolState, Role
from orchestrator.models.naming import domain_name, machine_mac
from orchestrator.models.ownership import OwnerTag, TagState
from orchestrator.models.sightings import Power
from orchestrator.models.storage import Drive
from orchestrator.models.volume_names import BodyVolume, DriveVolume, LocalVolume, parse_volume


@dataclass(frozen=True)
class Known:
    """What can be read without the hosts: the store's content (perhaps none, perhaps old), the copies beside it,
    and what the operator gave. `departed`: members it let go; `images`: those that are described beside it."""

    prefix: str
    installation: str
    sets: tuple[Declaration, ...] = ()
    members: tuple[Member, ...] = ()
    drives: tuple[Drive, ...] = ()
    departed: frozenset[str] = frozenset()
    copies: tuple[Declaration, ...] = ()
    given: tuple[Declaration, ...] = ()
    images: tuple[Image, ...] = ()


def plan_adoption(known: Known, hosts: Sequence[HostSurvey], now: float) -> Adoption:
    """Raises Conflict if a machine cannot be adopted: its set is unknown, it is too old, its address is another's.

    `hosts`: all that are configured, each of which has answered.
    """
    bodies, notes = _newest_bodies(known, hosts)
    sets = _choose_sets(known)
    _refuse_unknown_sets(bodies, sets)
    _refuse_double_addresses(bodies)
    records = {member.name: member for member in known.members}
    members = [_adopt(machine, tag, records.get(tag.member), known, now) for machine, tag in bodies]
    taken = {
        address
        for machine, tag in bodies
        for address in (tag.address, machine_mac(known.installation, tag.member))
    }
    dropped = [one for one in _absent(known, bodies, hosts) if taken & {one.address, one.mac}]
    notes += [f"{one.name} is gone, and its address {one.address} is another's: forgotten" for one in dropped]
    after = {one.name: one for one in (*(one for one in known.members if one not in dropped), *members)}
    drives, dropped_drives = _adopt_drives(known, hosts, after, now)
    notes += [f"drive {one.title} of {one.set_name} is gone from {one.host}: forgotten" for one in dropped_drives]
    left = _find_left(known, hosts, after)
    notes += [f"disks of {name} are left over, nothing else is there of it: understudy audit" for name in left]
    adopted = []
    for declared, source in sets.values():
        declared, words = _keep_all_instances(declared, source, after.values())
        found = sum(tag.set_name == declared.name for _, tag in bodies)
        adopted.append(AdoptedSet(declared, source, found))
        notes += words
    return Adoption(
        sets=tuple(adopted),
        images=_missing_images(known, sets.values()),
        members=tuple(one for one in members if one != records.get(one.name)),
        dropped=tuple(dropped),
        drives=tuple(one for one in drives if one not in known.drives),
        dropped_drives=tuple(dropped_drives),
        left=left,
        foreign=tuple((host.host, domain) for host in hosts for domain in host.foreign),
        notes=tuple(notes),
    )


# ---- machines ------------------------------------------------------------------------------------------------

Body = tuple[FoundMachine, OwnerTag]


def _newest_bodies(known: Known, hosts: Sequence[HostSurvey]) -> tuple[list[Body], list[str]]:
    """One for each member, and what is to be said of the others."""
    newest: dict[str, Body] = {}
    notes = []
    machines = [machine for host in hosts for machine in host.machines]
    unreadable = [one for one in machines if one.tag is None and one.member not in {m.name for m in known.members}]
    if unreadable:
        names = ", ".join(f"{one.domain} on {one.host}" for one in unreadable)
        raise Conflict(
            f"an older version made {names}: what their records held is not in their tags",
            "restore a backup (understudy restore FILE), or remove them with virsh, and adopt again",
        )
    for machine in machines:
        if machine.tag is None:
            continue
        if machine.member in known.departed and all(machine.member != one.name for one in known.members):
            notes.append(f"{machine.domain} on {machine.host} was let go before: the controller removes it")
            continue
        other = newest.get(machine.member)
        if other is not None:
            older = min(machine, other[0], key=_incarnation)
            notes.append(
                f"{machine.member} has a machine on two hosts; the older one, on {older.host}, is left alone"
            )
        if other is None or _incarnation(machine) > _incarnation(other[0]):
            newest[machine.member] = (machine, machine.tag)
    return [newest[name] for name in sorted(newest)], notes


def _incarnation(machine: FoundMachine) -> int:
    return machine.tag.incarnation if machine.tag is not None else 0


def _refuse_double_addresses(bodies: Sequence[Body]) -> None:
    counts = Counter(tag.address for _, tag in bodies)
    for address, count in counts.items():
        if count > 1:
            names = ", ".join(machine.domain for machine, tag in bodies if tag.address == address)
            raise Conflict(
                f"machines {names} have the same address {address}",
                "remove all but one of them with virsh (destroy, undefine), then adopt again",
            )


def _adopt(machine: FoundMachine, tag: OwnerTag, record: Member | None, known: Known, now: float) -> Member:
    """The record of the machine's member: rebuilt, or the one that there is where it knows no less."""
    rebuilt = rebuild_member(machine, tag, known, now)
    if record is None:
        return rebuilt
    if tag.incarnation != record.incarnation:
        return rebuilt if tag.incarnation > record.incarnation else record
    is_claimed = record.role is Role.STANDBY and tag.role is Role.INSTANCE
    is_set_up = record.phase in UNFINISHED and tag.state is not TagState.NEW
    is_elsewhere = record.host != machine.host
    is_started = record.phase is Phase.STOPPED and tag.state is TagState.SERVING
    is_stopped = record.phase is Phase.IN_SERVICE and tag.state is TagState.STOPPED
    moved_on = is_claimed or is_set_up or is_elsewhere or is_started or is_stopped
    return rebuilt if moved_on else record


_PARKED = {
    Power.RUNNING: PoolState.RUNNING,
    Power.STOPPED: PoolState.STOPPED,
    Power.HIBERNATED: PoolState.HIBERNATED,
}


def rebuild_member(machine: FoundMachine, tag: OwnerTag, known: Known, now: float) -> Member:
    """As far as its machine tells; the drives it holds are not in it."""
    phase = _phase(machine, tag)
    return Member(
        name=tag.member,
        set_name=tag.set_name,
        role=tag.role,
        phase=phase,
        host=machine.host,
        zone=machine.zone,
        address=tag.address,
        mac=machine_mac(known.installation, tag.member),
        incarnation=tag.incarnation,
        model=tag.model,
        image_digest=tag.digest,
        request=None,
        reason=f"adopted: found {machine.power.value} on {machine.host}",
        failures=0,
        created_at=tag.created_at,
        phase_since=now,
        parked=_PARKED.get(machine.power) if phase is Phase.STANDBY else None,
        entered=tag.state in (TagState.SERVING, TagState.STOPPED),
        served=tag.state in (TagState.SERVING, TagState.STOPPED),
        storage_since=_storage_since(machine, known.prefix, tag.member),
        memory=machine.memory,
    )


def _phase(machine: FoundMachine, tag: OwnerTag) -> Phase:
    if tag.state is TagState.NEW:
        # Its setup is done again from its beginning, as after any crash.
        return Phase.PROVISIONING if machine.power is Power.RUNNING else Phase.CREATING
    if tag.role is Role.STANDBY:
        return Phase.STANDBY
    by_state = {TagState.SET_UP: Phase.READY, TagState.SERVING: Phase.IN_SERVICE, TagState.STOPPED: Phase.STOPPED}
    return by_state[tag.state]


def _storage_since(machine: FoundMachine, prefix: str, member: str) -> int:
    disks = (parse_volume(prefix, name) for name in machine.disks)
    mine = (one.since for one in disks if isinstance(one, LocalVolume) and one.member == member)
    return max(mine, default=1)


def _absent(known: Known, bodies: Sequence[Body], hosts: Sequence[HostSurvey]) -> list[Member]:
    """Recorded members whose host has no machine of theirs."""
    found = {tag.member for _, tag in bodies} | {one.member for host in hosts for one in host.machines}
    answering = {host.host for host in hosts}
    return [one for one in known.members if one.name not in found and one.host in answering]


def _find_left(known: Known, hosts: Sequence[HostSurvey], members: Mapping[str, Member]) -> tuple[str, ...]:
    """Whose disks are there without a record or any machine of that name: they were let go."""
    there = {domain for host in hosts for domain in (*host.foreign, *(one.domain for one in host.machines))}
    left = set()
    for volume in (name for host in hosts for name in (host.volumes.keys() - host.disks_of_others) | host.logs):
        match parse_volume(known.prefix, volume):
            case BodyVolume(member, _) | LocalVolume(member, _) if member not in members:
                left.add(member)
    gone = known.departed
    return tuple(sorted(one for one in left - gone if domain_name(known.prefix, one) not in there))


# ---- sets ----------------------------------------------------------------------------------------------------


def _choose_sets(known: Known) -> dict[str, tuple[Declaration, Source]]:
    """Of each set what was given, else the newer of record and copy. Generations go on from the highest."""
    chosen: dict[str, tuple[Declaration, Source]] = {one.name: (one, Source.STORE) for one in known.sets}
    highest = {one.name: one.generation for one in known.sets}
    for copy in known.copies:
        if copy.name not in chosen or copy.generation >= chosen[copy.name][0].generation:
            same = copy.name in chosen and replace(copy, generation=0) == replace(
                chosen[copy.name][0], generation=0
            )
            if not same:
                chosen[copy.name] = (copy, Source.COPY)
        highest[copy.name] = max(highest.get(copy.name, 0), copy.generation)
    for given in known.given:
        chosen[given.name] = (given, Source.FILE)
    return {
        name: (replace(declared, generation=highest.get(name, 0) + 1), source)
        for name, (declared, source) in sorted(chosen.items())
    }


def _refuse_unknown_sets(bodies: Sequence[Body], sets: Mapping[str, object]) -> None:
    unknown = Counter(tag.set_name for _, tag in bodies if tag.set_name not in sets)
    if unknown:
        words = ", ".join(f"{count} of set {name!r}" for name, count in sorted(unknown.items()))
        raise Conflict(
            f"there are machines whose declaration is not known: {words}",
            "give the file that declares it: understudy adopt FILE",
        )


def _keep_all_instances(
    declared: Declaration, source: Source, members: Iterable[Member]
) -> tuple[Declaration, list[str]]:
    """A count of an older day takes no machine away. A copy that outlived the store is as new as they are."""
    is_current = source is Source.COPY
    there = sum(
        one.set_name == declared.name and one.role is Role.INSTANCE and not one.is_leaving for one in members
    )
    if declared.deleting or is_current or there <= declared.spec.instances:
        return declared, []
    words = f"{declared.name}: {declared.spec.instances} instances were declared, {there} are there and are kept"
    spec = declared.spec.model_copy(update={"instances": there})
    return replace(declared, spec=spec), [words]


def _missing_images(known: Known, sets: Iterable[tuple[Declaration, Source]]) -> tuple[Image, ...]:
    """All that copies and declarations describe; the store takes those that it lacks."""
    images = {one.ref: one for one in known.images}
    for declared, _ in sets:
        if not declared.image.is_lost:
            images.setdefault(declared.image.ref, declared.image)
    return tuple(images[ref] for ref in sorted(images))


# ---- drives --------------------------------------------------------------------------------------------------


Key = tuple[str, str, int]
"""(set, name, slot) of a drive."""


def _adopt_drives(
    known: Known, hosts: Sequence[HostSurvey], members: Mapping[str, Member], now: float
) -> tuple[list[Drive], list[Drive]]:
    """(drives as they are to be recorded, free ones that are recorded and of which no volume is left).

    A drive is its machine's that has it; else its instance's that held it, if that has no other of this name.
    """
    records: dict[Key, Drive] = {(one.set_name, one.name, one.slot): one for one in known.drives}
    attached = _attached_drives(known, hosts)
    has = {(member, key[1]) for key, member in attached.items()}
    adopted: dict[Key, Drive] = {}
    for host, key, size in _drive_volumes(known, hosts):
        record = records.get(key)
        if record is None or record.host != host:
            record = Drive(*key, host=host, size=size, member=None, created_at=now)
        holder = attached.get(key)
        if holder is None and (record.member, record.name) not in has:
            before = members.get(record.member or "")
            holder = before.name if before is not None and before.role is Role.INSTANCE else None
        adopted[key] = replace(record, member=holder, size=max(record.size, size), is_made=True)
    rest = [one for key, one in records.items() if key not in adopted]
    answering = {host.host for host in hosts}
    lost = [one for one in rest if one.is_made and one.member is None and one.host in answering]
    kept = [
        one if one.member in members and (one.member, one.name) not in has else replace(one, member=None)
        for one in rest
        if one not in lost
    ]
    return [*adopted.values(), *kept], lost


def _attached_drives(known: Known, hosts: Sequence[HostSurvey]) -> dict[Key, str]:
    """Drive -> the instance whose machine has it."""
    attached: dict[Key, str] = {}
    for machine in (machine for host in hosts for machine in host.machines):
        for one in (parse_volume(known.prefix, disk) for disk in sorted(machine.disks)):
            if isinstance(one, DriveVolume):
                attached[one.set_name, one.name, one.slot] = machine.member
    return attached


def _drive_volumes(known: Known, hosts: Sequence[HostSurvey]) -> Iterator[tuple[str, Key, int]]:
    """(host, drive, bytes) of every volume that nobody else uses. A raw one, which an earlier version made, is
    that drive as well, unless it was converted."""
    for host in hosts:
        found: dict[Key, int] = {}
        for volume, size in sorted(host.volumes.items()):
            one = parse_volume(known.prefix, volume)
            if isinstance(one, DriveVolume) and volume not in host.disks_of_others:
                found.setdefault((one.set_name, one.name, one.slot), size)  # .qcow2 is before .raw
        yield from ((host.host, key, size) for key, size in found.items())
