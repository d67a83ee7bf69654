"""When nothing may be done at all: the store does not know what it must have known.

A machine of this installation that no record names is a leak only if the store remembers that it let the member
go. One that the store has never heard of says that the store is lost, or a copy of an older day: then every wish
in it may be wrong, the addresses it would allot may be taken, and the balancer would forget who serves.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.models.members import Member, ScaleSet
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Observed
from orchestrator.models.steps import Plan, Settle, Step
from orchestrator.planner.world import Desired

FIX = "see what would be rebuilt: understudy adopt --dry-run; then: understudy adopt"
_SHOWN = 3


def unrecorded(members: Iterable[Member], prefix: str, observed: Observed) -> frozenset[tuple[str, str]]:
    """(host, domain) of every machine of ours that no record names."""
    known = {domain_name(prefix, member.name) for member in members}
    return frozenset(
        (host.name, domain)
        for host in observed.hosts.values()
        if host.answers
        for domain in host.machines
        if domain not in known
    )


def strangers(desired: Desired, observed: Observed) -> frozenset[tuple[str, str]]:
    """Of these, the ones whose member the store does not remember either; and newer bodies than it has recorded,
    because a body is recorded before it is made."""
    gone = {domain_name(desired.prefix, name) for name in desired.departed}
    recorded = {domain_name(desired.prefix, member.name): member.incarnation for member in desired.members}
    return frozenset(
        (host.name, domain)
        for host in observed.hosts.values()
        if host.answers
        for domain, machine in host.machines.items()
        if (machine.incarnation > recorded[domain] if domain in recorded else domain not in gone)
    )


def stranger_words(found: frozenset[tuple[str, str]]) -> str:
    names = [f"{domain} on {host}" for host, domain in sorted(found)]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return f"the store does not know machines of this installation ({shown}): it is lost, or older than they are"


def hold_still(sets: Iterable[ScaleSet], reason: str) -> tuple[Step, ...]:
    """Nothing is done but to say so to whoever waits."""
    words = f"nothing is done before 'understudy adopt': {reason}"
    return tuple(
        Settle(one.name, one.generation, words, f"set {one.name} waits: {words}")
        for one in sets
        if (one.settled_generation, one.stuck) != (one.generation, words)
    )


def plan_hold(desired: Desired, found: frozenset[tuple[str, str]], seen: frozenset[tuple[str, str]]) -> Plan:
    """`found` are strangers, `seen` those of the look before: what was made between a look at the store and one at
    the hosts is known the next time."""
    if desired.hold:
        return Plan(hold_still(desired.sets, desired.hold))
    if found & seen:
        return Plan(hold_still(desired.sets, stranger_words(found)), suspects=found)
    return Plan((), suspects=found)
