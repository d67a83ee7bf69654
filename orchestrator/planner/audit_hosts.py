"""One host against the records: machines, volumes, logs, reservations and what libvirt keeps beside them. Drives:
`planner.audit_drives`.

Work under way is no leak: of a member that is not at rest everything that bears its name is allowed, and nothing
is asked for. Names say whose a volume is, in whatever host's pool it is seen: pools may be shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.lifecycle.table import AT_REST
from orchestrator.lifecycle.telling import has_done_with_seed, is_untold
from orchestrator.models.audit import Fault, Finding, Kind, Remedy
from orchestrator.models.members import Image, Member, Phase, Role
from orchestrator.models.naming import (
    domain_name,
    golden_mark,
    image_volume,
    machine_mac,
    machine_uuid,
    seed_volume,
)
from orchestrator.models.sightings import Power
from orchestrator.models.stock import DomainStock, HostStock, Remnant, RemnantKind
from orchestrator.models.storage import Drive
from orchestrator.models.volume_names import (
    BodyVolume,
    DriveVolume,
    GoldenVolume,
    ImageVolume,
    LocalVolume,
    ProbeVolume,
    parse_volume,
)
from orchestrator.planner.world import Desired

_PROBE_SECONDS = 7.0  # that the guest by which KVM is tried may be there, and some more
_INCARNATIONS = 32  # bodies looked for of a member that has no record any more
_BY_ITSELF = "audit --fix removes it"
_HEALED = "a controller heals it: understudy serve, or apply its file again"


@dataclass(frozen=True)
class Books:
    """What is recorded; `desired` with all members that were let go, as far back as that is remembered."""

    desired: Desired
    images: tuple[Image, ...]
    installation: str

    @cached_property
    def members(self) -> Mapping[str, Member]:
        return {one.name: one for one in self.desired.members}

    @cached_property
    def drives(self) -> Mapping[tuple[str, str, int], Drive]:
        return {(one.set_name, one.name, one.slot): one for one in self.desired.drives}

    @cached_property
    def digests(self) -> frozenset[str]:
        """Of base disks that somebody may need."""
        made = {one.image_digest for one in self.desired.members}
        return frozenset({one.digest for one in self.images} | made)

    @cached_property
    def models(self) -> frozenset[str]:
        """Of which golden images may be needed."""
        made = {one.model for one in self.desired.members}
        return frozenset({one.model for one in self.desired.sets} | made)

    def is_known(self, member: str) -> bool:
        """There is, or was, such a member."""
        return member in self.members or member in self.desired.departed

    def domain(self, member: str) -> str:
        return domain_name(self.desired.prefix, member)


@dataclass(frozen=True)
class HostView:
    """One host beside the books. `power`: how each member's machine was seen in the look of the loop."""

    books: Books
    host: HostStock
    power: Mapping[str, Power]
    is_worked_on: bool

    def find(self, kind: Kind, fault: Fault, name: str, wrong: str, **more: object) -> Finding:
        """By default something left over that may be removed."""
        given: dict[str, object] = {"fix": _BY_ITSELF, "remedy": Remedy.REMOVE, **more}
        return Finding(kind, fault, name, self.host.name, wrong, **given)  # type: ignore[arg-type]

    def is_ours(self, domain: DomainStock | None) -> bool:
        """A copy that somebody made of our machine, under another name, has our tag too."""
        is_tagged = domain is not None and domain.installation == self.books.installation
        return is_tagged and domain is not None and domain.name == self.books.domain(domain.member)


def audit_host(view: HostView) -> Iterator[Finding]:
    yield from _machines_there(view)
    yield from _machines_missing(view)
    yield from _volumes_there(view)
    yield from _volumes_missing(view)
    yield from _logs(view)
    yield from _seeds(view)
    yield from _reservations(view)
    yield from _remnants(view)


def unheard_of(books: Books, host: HostStock) -> Iterator[str]:
    """What can only be there if the store is older than the host, or another's, beside the machines that keep a
    controller from acting: disks of members of which it was never told, machines in our pool with the tag of
    another installation."""
    for name, domain in host.domains.items():
        is_in_our_pool = any(path.startswith(f"{host.pool}/") for path in domain.files)
        if domain.installation not in ("", books.installation) and is_in_our_pool:
            yield name
    for name in (*host.volumes, *host.logs):
        match parse_volume(books.desired.prefix, name):
            case BodyVolume(member, _) | LocalVolume(member, _) if not books.is_known(member):
                yield name


# ---- machines ------------------------------------------------------------------------------------------------


def _machines_there(view: HostView) -> Iterator[Finding]:
    books = view.books
    by_domain = {books.domain(name): one for name, one in books.members.items()}
    for name, domain in sorted(view.host.domains.items()):
        member = by_domain.get(name)
        if name == f"{books.desired.prefix}-probe":
            yield from _probe(view, domain)
        elif not view.is_ours(domain):
            if member is not None and member.host == view.host.name:
                wrong = f"a domain of somebody else has the name of a machine of {member.set_name}"
                fix = "it is left alone: rename it, or remove the member"
                yield view.find(Kind.MACHINE, Fault.WRONG, name, wrong, fix=fix, remedy=Remedy.OPERATOR)
        elif member is None:
            yield view.find(Kind.MACHINE, Fault.LEFT_OVER, name, "no record names it", target=domain.member)
        elif member.host != view.host.name:
            wrong = f"its record says host {member.host}"
            fix = f"see which of both is right, then remove the other: virsh undefine {name}"
            yield view.find(Kind.MACHINE, Fault.WRONG, name, wrong, fix=fix, remedy=Remedy.OPERATOR)
        elif member.phase in AT_REST and domain.incarnation != member.incarnation:
            wrong = f"it is body {domain.incarnation} of {member.name}, recorded is {member.incarnation}"
            yield view.find(Kind.MACHINE, Fault.WRONG, name, wrong, fix=_HEALED, remedy=Remedy.CONTROLLER)


def _probe(view: HostView, domain: DomainStock) -> Iterator[Finding]:
    """Its disk in our pool says that it is ours: it carries no tag."""
    if any(path.startswith(f"{view.host.pool}/") for path in domain.files):
        wrong = "it was left when KVM was tried"
        yield view.find(Kind.PROBE, Fault.LEFT_OVER, domain.name, wrong, settles_in=_PROBE_SECONDS)


def _machines_missing(view: HostView) -> Iterator[Finding]:
    for name, member in sorted(view.books.members.items()):
        if member.host != view.host.name or member.phase not in AT_REST or member.phase is Phase.STOPPED:
            continue
        power = view.power.get(name, Power.UNKNOWN)
        has_to_run = member.phase is Phase.IN_SERVICE
        if power is Power.UNKNOWN or power is Power.RUNNING:
            continue
        if has_to_run or power in (Power.ABSENT, Power.CRASHED):
            fault = Fault.MISSING if power is Power.ABSENT else Fault.WRONG
            wrong = f"{name} is {member.phase.value}, but its machine is {power.value}"
            yield view.find(
                Kind.MACHINE, fault, view.books.domain(name), wrong, fix=_HEALED, remedy=Remedy.CONTROLLER
            )


# ---- volumes -------------------------------------------------------------------------------------------------


def _volumes_there(view: HostView) -> Iterator[Finding]:
    for name, path in sorted(view.host.volumes.items()):
        wrong = _why_left_over(view, name)
        if not wrong:
            continue
        if path in view.host.in_use:
            fix = "a machine has it among its disks: it is left alone"
            yield view.find(Kind.VOLUME, Fault.WRONG, name, wrong, fix=fix, remedy=Remedy.OPERATOR)
            continue
        is_probe = isinstance(parse_volume(view.books.desired.prefix, name), ProbeVolume)
        seconds = _PROBE_SECONDS if is_probe else 1.0
        yield view.find(Kind.VOLUME, Fault.LEFT_OVER, name, wrong, settles_in=seconds)


def _why_left_over(view: HostView, name: str) -> str:
    """Empty if it is needed, may be needed, is a drive, or is none of our names."""
    match parse_volume(view.books.desired.prefix, name):
        case BodyVolume(member, incarnation, is_memory):
            return _why_no_body(view, member, incarnation) or _why_no_memory(view, member, is_memory)
        case LocalVolume(member, since, is_raw=False):
            found = view.books.members.get(member)
            if found is None:
                return "" if _goes_with_its_machine(view, member) else f"no record names {member}"
            is_old = found.phase in AT_REST and since != found.storage_since
            return f"{member} has another local storage since its body {found.storage_since}" if is_old else ""
        case ImageVolume(digest, is_mark):
            return _why_no_image(view, digest, is_mark)
        case GoldenVolume(model, serial, _) if view.host.volumes[name] not in view.host.in_use:
            return _why_no_golden(view, model, serial)
        case ProbeVolume() if f"{view.books.desired.prefix}-probe" not in view.host.domains:
            return "it was left when KVM was tried"
    return ""


def _why_no_body(view: HostView, member: str, incarnation: int) -> str:
    found = view.books.members.get(member)
    if found is None:
        return "" if _goes_with_its_machine(view, member) else f"no record names {member}"
    if found.phase in AT_REST and incarnation != found.incarnation:
        return f"it belongs to body {incarnation} of {member}, which has body {found.incarnation}"
    return ""


def _why_no_memory(view: HostView, member: str, is_memory: bool) -> str:
    """It is removed as soon as the fork has gone on from it."""
    found = view.books.members.get(member)
    is_left = is_memory and found is not None and found.phase in AT_REST
    return f"{member} has gone on from it" if is_left else ""


def _goes_with_its_machine(view: HostView, member: str) -> bool:
    """A machine of that name is there: if it is ours, it is a finding of its own and takes its volumes with it."""
    return view.books.domain(member) in view.host.domains


def _why_no_image(view: HostView, digest: str, is_mark: bool) -> str:
    name = image_volume(view.books.desired.prefix, digest)
    if digest not in view.books.digests:
        return "no image has that content"
    if is_mark:
        return "" if name in view.host.volumes else "it marks a base disk that is not there"
    if f"{name}.verified" in view.host.volumes or view.is_worked_on:
        return ""
    users = (one for one in view.books.members.values() if one.host == view.host.name)
    if any(one.image_digest == digest for one in users):
        return ""  # uploaded anew with the next machine; what there is may be open
    return "its upload was cut short"


def _why_no_golden(view: HostView, model: str, serial: int) -> str:
    """Of a part that no machine is written over."""
    if model not in view.books.models:
        return f"no set and no member has model {model}"
    prefix = view.books.desired.prefix
    found = (parse_volume(prefix, name) for name in view.host.volumes)
    serials = {one.serial for one in found if isinstance(one, GoldenVolume) and one.model == model}
    complete = {one for one in serials if golden_mark(prefix, model, one) in view.host.volumes}
    if serial < max(complete, default=0):
        return "a newer golden image of that model has followed it"
    is_cut_short = serial not in complete and not view.is_worked_on
    return "its taking was cut short" if is_cut_short else ""


def _volumes_missing(view: HostView) -> Iterator[Finding]:
    for name, member in sorted(view.books.members.items()):
        domain = view.host.domains.get(view.books.domain(name))
        if domain is None or not view.is_ours(domain) or member.host != view.host.name:
            continue
        if member.phase not in AT_REST or domain.incarnation != member.incarnation:
            continue
        base = image_volume(view.books.desired.prefix, member.image_digest)
        there = {*view.host.volumes.values()}
        needed = {path for path in domain.files if path.startswith(f"{view.host.pool}/")}
        lost = {path.rpartition("/")[2] for path in needed - there}
        if base not in view.host.volumes:
            lost.add(base)
        for volume in sorted(lost):
            if isinstance(parse_volume(view.books.desired.prefix, volume), DriveVolume):
                continue
            verb = "reimage" if member.role is Role.INSTANCE else "remove"
            fix = f"its content is lost with its next start: understudy {verb} {member.set_name}/{name}"
            wrong = f"the machine of {name} needs it"
            yield view.find(Kind.VOLUME, Fault.MISSING, volume, wrong, fix=fix, remedy=Remedy.OPERATOR)


# ---- logs ----------------------------------------------------------------------------------------------------


def _logs(view: HostView) -> Iterator[Finding]:
    for name in sorted(view.host.logs):
        parsed = parse_volume(view.books.desired.prefix, name)
        if isinstance(parsed, BodyVolume) and (wrong := _why_no_body(view, parsed.member, parsed.incarnation)):
            yield view.find(Kind.LOG, Fault.LEFT_OVER, name, wrong)


# ---- seeds ---------------------------------------------------------------------------------------------------


def _seeds(view: HostView) -> Iterator[Finding]:
    """Of machines that are set up, and keep a seed although they have done with it."""
    sets = {one.name: one for one in view.books.desired.sets}
    for name, member in sorted(view.books.members.items()):
        seed = seed_volume(view.books.domain(name), member.incarnation)
        if member.host != view.host.name or member.phase not in AT_REST or seed not in view.host.seeds:
            continue
        wanted = sets[member.set_name]
        if member.model != wanted.model or not has_done_with_seed(wanted.spec):
            continue
        if member.phase is Phase.IN_SERVICE and is_untold(member, wanted):
            continue  # it is taken out once its guest was told that it serves
        wrong = f"{name} is set up, and its seed, with what is secret in it, can be read still"
        # A memory image cannot be resumed without it.
        more = {"fix": f"it goes when {name} is claimed", "remedy": Remedy.CONTROLLER}
        is_saved = view.power.get(name) is Power.HIBERNATED
        yield view.find(Kind.SEED, Fault.LEFT_OVER, seed, wrong, **(more if is_saved else {}))


# ---- reservations and remnants -------------------------------------------------------------------------------


def _reservations(view: HostView) -> Iterator[Finding]:
    """The MAC address is derived from installation and member: it says whose an entry is."""
    books, there = view.books, set()
    for one in view.host.reservations:
        if one.mac != machine_mac(books.installation, one.member):
            continue
        there.add(one.member)
        if one.member not in books.members and books.domain(one.member) not in view.host.domains:
            wrong = f"{one.address} is reserved in network {one.network} for a member that is not recorded"
            yield view.find(Kind.RESERVATION, Fault.LEFT_OVER, one.member, wrong, target=one.network)
    for name, member in sorted(books.members.items()):
        is_due = member.host == view.host.name and member.phase in AT_REST and member.phase is not Phase.STOPPED
        if view.host.reserves and is_due and name not in there and books.domain(name) in view.host.domains:
            wrong = f"{member.address} is not reserved: somebody else may be given it"
            fix = f"it is reserved again with its next machine: understudy reimage {member.set_name}/{name}"
            yield view.find(Kind.RESERVATION, Fault.MISSING, name, wrong, fix=fix, remedy=Remedy.OPERATOR)


def _remnants(view: HostView) -> Iterator[Finding]:
    """Of members that we know to have been ours, and of whose machine nothing else is there."""
    books = view.books
    domains = {books.domain(name): name for name in books.desired.departed | books.members.keys()}
    uuids = {
        machine_uuid(books.installation, name, body): name
        for name in domains.values()
        for body in range(1, _INCARNATIONS + 1)
    }
    there = {*view.host.domains, *(one.uuid for one in view.host.domains.values())}
    for one in view.host.remnants:
        owner = _owner_of(one, domains, uuids)
        member = books.members.get(owner)
        if not owner or one.subject in there or (member is not None and member.phase not in AT_REST):
            continue
        wrong = f"{one.kind.value} of a machine of {owner} that is not there"
        yield view.find(Kind.REMNANT, Fault.LEFT_OVER, one.path, wrong)


def _owner_of(one: Remnant, domains: Mapping[str, str], uuids: Mapping[str, str]) -> str:
    return (uuids if one.kind is RemnantKind.TPM else domains).get(one.subject, "")
