"""What exists against what should, both ways: a record of counts in, findings out.

A host that does not answer is not in the stock: nothing of it is judged. `docs/audit.md` says what is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from orchestrator.lifecycle.table import AT_REST
from orchestrator.models.audit import Fault, Finding, Kind, Remedy
from orchestrator.models.members import Image, Member, Phase, ScaleSet
from orchestrator.models.sightings import Power, Rotation
from orchestrator.models.stock import Stock
from orchestrator.planner.audit_drives import audit_drives
from orchestrator.planner.audit_hosts import Books, HostView, audit_host, unheard_of
from orchestrator.planner.balancer import desired_balancer
from orchestrator.planner.strangers import FIX, stranger_words, strangers
from orchestrator.planner.world import sighting_of

_REMOVED = "audit --fix removes it"
_CONVERGED = "audit --fix, or any controller, puts it right"
_CONVERGED_BY_ANOTHER = "the controller at work puts it right: it alone changes HAProxy"
_BY_HAND = (
    "nothing is removed while it may be older than what exists: bring the newest back, or remove these by hand"
)
_FIXING = frozenset({Remedy.REMOVE, Remedy.CONVERGE})
_ACTING = _FIXING | {Remedy.CONTROLLER}


def compare(books: Books, stock: Stock) -> tuple[Finding, ...]:
    """Sorted by kind, host and name. A world at rest that is as declared gives none."""
    powers = {
        one.name: sighting_of(one, books.desired.prefix, stock.observed).power for one in books.desired.members
    }
    found = [
        finding
        for host in stock.hosts.values()
        for view in (HostView(books, host, powers, stock.is_worked_on),)
        for finding in (*audit_host(view), *audit_drives(view))
    ]
    found += [*_balancer(books, stock), *_state(books, stock), *_homeless(books, stock)]
    if stock.is_worked_on:
        found = [_left_to_the_controller(one) for one in found]
    if not stock.is_worked_on:
        found += _unfinished(books, stock)
    if why := _why_held(books, stock):
        found = [*(_left_alone(one, _ACTING) for one in found), _of_store(why, FIX)]
    elif doubtful := sorted(name for host in stock.hosts.values() for name in unheard_of(books, host)):
        found = [*(_left_alone(one, _FIXING) for one in found), _of_store(_never_told_of(doubtful), _BY_HAND)]
    return tuple(sorted(found, key=lambda one: (one.kind, one.host, one.name)))


def _why_held(books: Books, stock: Stock) -> str:
    """Why no controller does anything either (`planner.strangers`)."""
    found = strangers(books.desired, stock.observed)
    return books.desired.hold or (stranger_words(found) if found else "")


def _never_told_of(names: list[str]) -> str:
    rest = f" and {len(names) - 1} more that exist" if len(names) > 1 else ", which exists"
    return f"it was never told of {names[0]}{rest}"


def _of_store(wrong: str, fix: str) -> Finding:
    return Finding(Kind.STORE, Fault.WRONG, "store", "", wrong, fix, Remedy.OPERATOR)


def _left_alone(finding: Finding, remedies: frozenset[Remedy]) -> Finding:
    """Scratch and processes are nobody's, whatever the store knows."""
    if finding.remedy not in remedies or finding.kind in (Kind.SCRATCH, Kind.PROCESS, Kind.PROBE):
        return finding
    return replace(finding, remedy=Remedy.OPERATOR, fix="left alone: see the finding about the store")


def _left_to_the_controller(finding: Finding) -> Finding:
    if finding.remedy is not Remedy.CONVERGE:
        return finding
    return replace(finding, remedy=Remedy.CONTROLLER, fix=_CONVERGED_BY_ANOTHER)


def _here(kind: Kind, fault: Fault, name: str, wrong: str) -> Finding:
    """Something on the controller's own machine that may be removed."""
    return Finding(kind, fault, name, "", wrong, _REMOVED, Remedy.REMOVE)


# ---- load balancer -------------------------------------------------------------------------------------------


def _balancer(books: Books, stock: Stock) -> Iterator[Finding]:
    seen, config = stock.observed.balancer, desired_balancer(books.desired, stock.observed)
    for process in stock.strays:
        wrong = "an HAProxy of ours that listens, but is not the one in force"
        yield _here(Kind.PROCESS, Fault.LEFT_OVER, str(process), wrong)
    if bool(config.frontends) != seen.running:
        fault = Fault.MISSING if config.frontends else Fault.LEFT_OVER
        wrong = "it does not run" if config.frontends else "it runs, but no set has an endpoint"
        yield _of_balancer(fault, "haproxy", wrong)
        return
    wanted = config.server_states()
    found = {key: server.state for key, server in seen.servers.items()}
    different = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    for key in different:
        yield _server("/".join(key), wanted.get(key), found.get(key))
    if seen.running and not different and seen.digest != config.digest():
        yield _of_balancer(Fault.WRONG, "haproxy", "its configuration is not the one that should be in force")


def _server(name: str, wanted: Rotation | None, found: Rotation | None) -> Finding:
    if wanted is None:
        return _of_balancer(Fault.LEFT_OVER, name, f"it is {found}, but no such member belongs behind it")
    if found is None:
        return _of_balancer(Fault.MISSING, name, f"it should be {wanted}")
    return _of_balancer(Fault.WRONG, name, f"it is {found}, and should be {wanted}")


def _of_balancer(fault: Fault, name: str, wrong: str) -> Finding:
    return Finding(Kind.BALANCER, fault, name, "", wrong, _CONVERGED, Remedy.CONVERGE)


# ---- state directory -----------------------------------------------------------------------------------------


def _state(books: Books, stock: Stock) -> Iterator[Finding]:
    state, known = stock.state, {one.digest: one.ref for one in books.images}
    for digest in sorted(known.keys() - state.images):
        fix = "add it again: understudy image add NAME FILE, the same file"
        wrong = f"the file of image {known[digest]} is gone: no new host can get it"
        yield Finding(Kind.IMAGE, Fault.MISSING, digest, "", wrong, fix, Remedy.OPERATOR)
    for digest in sorted(state.images - known.keys()):
        yield _here(Kind.IMAGE, Fault.LEFT_OVER, digest, "no image has that content")
    for name in sorted(state.scratch):
        yield _here(Kind.SCRATCH, Fault.LEFT_OVER, name, "the command that worked in it is gone")
    described = {f"image-records/{one.name}@{one.version}.json" for one in books.images}
    for name in sorted(state.copies - described):
        yield _here(Kind.COPY, Fault.LEFT_OVER, name, "it describes no image, or was never finished")
    if stock.is_worked_on and any(map(_is_unsettled, books.desired.sets)):
        return  # who is at it may need them, or removes them in the end
    for name in sorted(state.uploads - needed_files(Kind.UPLOAD, books.images, books.desired.sets)):
        yield _here(Kind.UPLOAD, Fault.LEFT_OVER, name, "no set uploads it")
    for name in sorted(state.secrets - needed_files(Kind.SECRET, books.images, books.desired.sets)):
        yield _here(Kind.SECRET, Fault.LEFT_OVER, name, "no set uses it")


def needed_files(kind: Kind, images: Iterable[Image], sets: Iterable[ScaleSet]) -> frozenset[str]:
    """Names (of images: digests) of what somebody needs of the images, uploads or secrets that are kept."""
    setups = [one.spec.setup for one in sets]
    if kind is Kind.IMAGE:
        return frozenset(one.digest for one in images)
    if kind is Kind.UPLOAD:
        return frozenset(f"{digest}.tar" for setup in setups for digest in setup.upload_digests())
    return frozenset(digest for setup in setups for digest in setup.secret_digests())


# ---- records -------------------------------------------------------------------------------------------------


def _homeless(books: Books, stock: Stock) -> Iterator[Finding]:
    for member in books.desired.members:
        if member.host not in stock.observed.hosts:
            wrong = f"its host {member.host} is not in config.toml"
            fix = f"configure the host again, or: understudy remove {member.set_name}/{member.name}"
            yield Finding(Kind.MACHINE, Fault.MISSING, member.name, member.host, wrong, fix, Remedy.OPERATOR)


def _unfinished(books: Books, stock: Stock) -> Iterator[Finding]:
    """What a controller was at when it ended, whoever's fault that was."""
    by_set: dict[str, list[Member]] = {one.name: [] for one in books.desired.sets}
    for member in books.desired.members:
        by_set.setdefault(member.set_name, []).append(member)
    for wanted in books.desired.sets:
        under_way = [one for one in by_set[wanted.name] if _is_under_way(one, books, stock)]
        if under_way or _is_unsettled(wanted):
            names = ", ".join(f"{one.name} is {one.phase.value}" for one in under_way)
            wrong = f"work on it was not finished, and no controller is at it{': ' if names else ''}{names}"
            fix = "a controller goes on: understudy serve, or apply its file again"
            if wanted.deleting:
                fix = f"a controller goes on: understudy serve, or understudy delete {wanted.name}"
            yield Finding(Kind.SET, Fault.WRONG, wanted.name, "", wrong, fix, Remedy.CONTROLLER)


def _is_unsettled(wanted: ScaleSet) -> bool:
    return wanted.settled_generation != wanted.generation


def _is_under_way(member: Member, books: Books, stock: Stock) -> bool:
    """A failed one without a machine waits for its next try; of a host that does not answer nothing is judged."""
    power = sighting_of(member, books.desired.prefix, stock.observed).power
    if power is Power.UNKNOWN:
        return False
    if member.phase is Phase.FAILED:
        return power is not Power.ABSENT
    return member.phase not in AT_REST or member.request is not None
