"""Golden images: of whom one is taken, when it goes, and who is made as a fork of it.

One for each host and model, of a member that is set up and at rest. Whatever else is due on that member goes
first, and nothing waits for the taking but machines that would boot meanwhile and can be forks a moment later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.lifecycle.telling import has_to_enter, is_untold
from orchestrator.models.members import Member, Phase, Role, ScaleSet
from orchestrator.models.sightings import MachineSighting, Observed, Power
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.steps import (
    Advance,
    Claim,
    Effect,
    EffectKind,
    Interrupt,
    RemoveGolden,
    Renew,
    Repair,
    Retire,
    Step,
)
from orchestrator.planner.backoff import pause_after
from orchestrator.planner.repair import is_unhealthy
from orchestrator.planner.world import Desired, sighting_of

GIVES_UP_AFTER = 3
"""Failures in a row after which a model boots on that host, until it changes."""
PATIENCE = 30.0
"""Seconds that a machine waits, at most, for the golden image that it will be a fork of, once somebody is ready of
whom it can be taken."""
EARLY_PAUSE = 1.0
"""Seconds until a guest is asked again that was ready before its agent."""

# What asks something of a machine, or will.
_ABOUT_A_MEMBER = (Advance, Claim, Repair, Retire, Renew, Effect)

Place = tuple[str, str]  # (host, model)
_PARKED = frozenset({EffectKind.SHUT_DOWN, EffectKind.HIBERNATE})


def may_have_golden(spec: ScaleSetSpec) -> bool:
    """Whether machines of a set can be forks. Local storage is mounted in the memory that they would go on
    from."""
    return spec.setup.forks and spec.local_storage is None


def plan_without_fork(member: Member, trouble: str) -> Advance:
    """What to record of a fork that could not be told who it is: the next body boots."""
    if member.failures:
        return Advance(member, Phase.FAILED, trouble)
    return Advance(member, Phase.CREATING, f"{trouble}; its next machine boots", new_body=True, is_repair=True)


@dataclass
class Goldens:
    """Golden images during one plan. `busy`: work under way."""

    desired: Desired
    observed: Observed
    busy: Mapping[str, EffectKind]
    now: float
    wakes: list[float] = field(default_factory=list)
    waiting: list[tuple[Member, str]] = field(default_factory=list)  # who waits for one, and the words for it

    @property
    def sources(self) -> frozenset[str]:
        """Members of whom a golden image is being taken."""
        return frozenset(name for name, kind in self.busy.items() if kind is EffectKind.TAKE_GOLDEN)

    def may_fork(self, member: Member, wanted: ScaleSet) -> bool:
        """Whether the body that is to be made is a fork. Whoever failed before boots, and so does who has drives
        that its machine takes only before it starts."""
        if member.phase is not Phase.CREATING or member.failures or member.model != wanted.model:
            return False
        if not may_have_golden(wanted.spec):
            return False
        if member.drives and wanted.spec.machine.disk_bus != "virtio":
            return False
        host = self.observed.hosts.get(member.host)
        has_golden = host is not None and host.answers and member.model in host.goldens
        return has_golden and self._is_due((member.host, member.model))

    def add(self, steps: Sequence[Step]) -> list[Step]:
        """The same steps, with what is done about golden images."""
        takes = self._takes(steps)
        sources = {take.member.name for take in takes}
        taken = _earliest([*(take.member for take in takes), *self._being_taken()])
        if any(isinstance(step, Effect) and step.kind is EffectKind.CREATE for step in steps):
            taken |= _earliest(self._soon_taken())
        kept = [step for step in steps if not self._waits(step, taken) and not _parks(step, sources)]
        interrupts, busy = self._interrupts(kept), self.sources
        # An effect of theirs can begin when the taking has ended.
        kept = [step for step in kept if not (isinstance(step, Effect) and step.member.name in busy)]
        return [*self._removals(), *kept, *takes, *interrupts]

    def _interrupts(self, steps: Sequence[Step]) -> list[Interrupt]:
        """Whatever is due on a member of whom one is being taken goes before it."""
        sources = self.sources
        due = {
            step.member.name: step
            for step in reversed(steps)
            if isinstance(step, _ABOUT_A_MEMBER) and step.member.name in sources and not _parks(step, {*sources})
        }
        return [Interrupt(step.member, f"no golden image now: {step.reason}") for step in due.values()]

    # ---- taking ------------------------------------------------------------------------------------------

    def _takes(self, steps: Sequence[Step]) -> list[Effect]:
        """At most one for each host."""
        moved = {step.member.name: step for step in steps if hasattr(step, "member")}
        hosts = {member.host for member in self._being_taken()}
        takes: list[Effect] = []
        for wanted in self.desired.sets:
            if wanted.deleting or not may_have_golden(wanted.spec):
                continue
            lacking = {host for host in self.observed.hosts if self._is_wanted((host, wanted.model))} - hosts
            if not lacking:
                continue
            current = [one for one in self._members_of(wanted.name) if one.model == wanted.model]
            fit = [
                one for one in current if one.host in lacking and self._is_fit(one, wanted, moved.get(one.name))
            ]
            for host in sorted({one.host for one in fit}):
                hosts.add(host)
                member = self._choose([one for one in fit if one.host == host])
                words = f"taking a golden image of model {member.model} from {member.name}"
                takes.append(Effect(EffectKind.TAKE_GOLDEN, member, words))
        return takes

    def _choose(self, fit: list[Member]) -> Member:
        """The oldest; after a failure the next one, because what is the matter may be the matter with that one."""
        ordered = sorted(fit, key=lambda one: (_rank(one), one.created_at, one.name))
        trouble = self.desired.golden_troubles.get((ordered[0].host, ordered[0].model))
        return ordered[(trouble.failures if trouble else 0) % len(ordered)]

    def _members_of(self, name: str) -> Iterable[Member]:
        return (one for one in self.desired.members if one.set_name == name)

    def _is_fit(self, member: Member, wanted: ScaleSet, step: Step | None) -> bool:
        """Set up, running, told its phase, and nothing due or under way but that it is parked."""
        if member.name in self.busy or member.request is not None or member.drives or member.failures:
            return False
        if is_untold(member, wanted) or not is_source(member, wanted):
            return False
        if step is not None and not (member.phase is Phase.PARKING and _parks(step, {member.name})):
            return False
        seen = sighting_of(member, self.desired.prefix, self.observed)
        return _is_calm(seen) and not self._is_ill(member, wanted)

    def _is_ill(self, member: Member, wanted: ScaleSet) -> bool:
        return (
            member.unhealthy_since is not None
            or member.name in self.observed.troubled
            or is_unhealthy(wanted, member, self.observed)
        )

    def _is_wanted(self, place: Place) -> bool:
        name, model = place
        host = self.observed.hosts.get(name)
        return host is not None and host.answers and model not in host.goldens and self._is_due(place)

    def _is_due(self, place: Place) -> bool:
        """False during the pause after a failure, and where it was given up."""
        trouble = self.desired.golden_troubles.get(place)
        if trouble is None:
            return True
        if trouble.failures >= GIVES_UP_AFTER:
            return False
        pause = pause_after(trouble.failures, self.desired.limits) if trouble.failures else EARLY_PAUSE
        due = trouble.at + pause
        if self.now < due:
            self.wakes.append(due)
            return False
        return True

    def _being_taken(self) -> list[Member]:
        sources = self.sources
        return [one for one in self.desired.members if one.name in sources] if sources else []

    def _soon_taken(self) -> list[Member]:
        """Who is set up, so that one will be taken of it or of another once it was told its phase."""
        fit = {one.name: one for one in self.desired.sets if not one.deleting and may_have_golden(one.spec)}
        return [
            one
            for one in self.desired.members
            if one.set_name in fit
            and one.model == fit[one.set_name].model
            and self._will_be_fit(one, fit[one.set_name])
            and self._is_wanted((one.host, one.model))
        ]

    def _will_be_fit(self, member: Member, wanted: ScaleSet) -> bool:
        if member.request is not None or member.drives or member.failures or member.unhealthy_since is not None:
            return False
        is_on_its_way = member.phase is Phase.READY and not has_to_enter(member, wanted)
        is_there = is_on_its_way or is_source(member, wanted)
        return is_there and _is_calm(sighting_of(member, self.desired.prefix, self.observed))

    # ---- waiting, removing -------------------------------------------------------------------------------

    def _waits(self, step: Step, taken: Mapping[Place, float]) -> bool:
        """A machine that would boot, and can be a fork in a moment. `taken`: since when somebody is there of whom
        the golden image is taken."""
        if not isinstance(step, Effect) or step.kind is not EffectKind.CREATE:
            return False
        member = step.member
        if member.failures or (member.host, member.model) not in taken:
            return False
        is_new = sighting_of(member, self.desired.prefix, self.observed).power is Power.ABSENT
        until = max(member.phase_since, taken[member.host, member.model]) + PATIENCE
        if not is_new or self.now >= until:
            return False
        self.wakes.append(until)
        self.waiting.append((member, f"waits for the golden image of its model on host {member.host}"))
        return True

    def _removals(self) -> list[Step]:
        """Of models that no set declares and no member on that host is of; also what a taking or a removal that
        was cut short has left."""
        declared = {one.model for one in self.desired.sets if not one.deleting and may_have_golden(one.spec)}
        there = {host.name: host.goldens | host.golden_remnants for host in self.observed.hosts.values()}
        seen = [host for host in self.observed.hosts.values() if host.answers and there[host.name] - declared]
        lived_on = {(one.host, one.model) for one in self.desired.members} if seen else set()
        return [
            RemoveGolden(host.name, model, f"nothing on {host.name} is of model {model} any more")
            for host in seen
            for model in sorted(there[host.name] - declared)
            if (host.name, model) not in lived_on
        ]


def is_source(member: Member, wanted: ScaleSet) -> bool:
    """Whether what its guest holds is what every other machine of the model should begin with. What on_claim has
    done to an instance is not."""
    if member.role is Role.STANDBY:
        return member.phase in (Phase.STANDBY, Phase.PARKING)
    return member.phase is Phase.IN_SERVICE and not wanted.spec.hooks.on_claim


def _earliest(members: Iterable[Member]) -> dict[Place, float]:
    """Since when the first of them, on each host and of each model, is where it is (epoch seconds)."""
    since: dict[Place, float] = {}
    for member in members:
        place = member.host, member.model
        since[place] = min(member.phase_since, since.get(place, member.phase_since))
    return since


def _rank(member: Member) -> int:
    """The reserve has served nobody."""
    return 0 if member.role is Role.STANDBY else 1


def _is_calm(seen: MachineSighting) -> bool:
    return seen.power is Power.RUNNING and not seen.rebooted and not seen.halted and not seen.forked


def _parks(step: Step, members: set[str]) -> bool:
    """Switches one of them off for the pool."""
    if not isinstance(step, Effect) or step.kind not in _PARKED:
        return False
    return step.member.phase is Phase.PARKING and step.member.name in members
