"""Steps of a plan. Each carries one English reason: the log line, the event and the dry run's output.

*Records* change the store only. *Effects* change the world and are idempotent; the phase in the store says
which one is due, so a crash between an effect and its record costs a repetition, never a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.models.balancing import BalancerConfig
from orchestrator.models.members import Member, Phase, PoolCondition, PoolState, Request, Role, RolloutCondition


class EffectKind(StrEnum):
    CREATE = "create"  # overlay, seed, domain, started
    FORK = "fork"  # the same from its model's golden image, instead of a boot
    PROVISION = "provision"  # setup result, steps, readiness
    START = "start"  # the domain is started
    AWAIT = "await"  # readiness of a machine set up before
    TELL = "tell"  # the guest is told its phase, and hooks run
    SHUT_DOWN = "shut_down"  # clean, by force after a deadline
    HIBERNATE = "hibernate"  # memory to disk, then off
    DESTROY = "destroy"  # domain, disks, seed, console log
    TAKE_GOLDEN = "take_golden"  # memory and disk kept as its model's golden image; the machine goes on


@dataclass(frozen=True)
class Admit:
    """Record a new member; its name, address and MAC are allotted with the record."""

    set_name: str
    role: Role
    host: str
    zone: str
    reason: str
    event: str = ""


@dataclass(frozen=True)
class Claim:
    """Move a pool member into the set. `failures`: those of the instance whose place it takes."""

    member: Member
    phase: Phase
    reason: str
    failures: int = 0


@dataclass(frozen=True)
class Advance:
    """Record a member's next phase. `new_body` starts a new incarnation, `new_storage` new local storage with it;
    `answered` clears its request, `asks` is a new one; `parked` is the state in which a pool member is parked;
    `is_repair` counts one more try; `is_held` keeps a guest that restarts over and over, or does not come up, out
    of rotation for a pause."""

    member: Member
    phase: Phase
    reason: str
    new_body: bool = False
    answered: bool = False
    parked: PoolState | None = None
    is_repair: bool = False
    new_storage: bool = False
    is_held: bool = False
    asks: Request | None = None


@dataclass(frozen=True)
class Repair:
    """Record that something is asked of a member because its services do not answer: one more try."""

    member: Member
    request: Request
    reason: str


@dataclass(frozen=True)
class NoteHealth:
    """Record since when a member's services do not answer (None: they do), and whether its failures are over."""

    member: Member
    unhealthy_since: float | None
    is_well: bool
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """Record that nothing more is done about an instance until the operator says something."""

    member: Member
    reason: str


@dataclass(frozen=True)
class NoteRestart:
    """Record one more of the restarts that a member's setup performs."""

    member: Member
    reason: str


@dataclass(frozen=True)
class Retire:
    """Record that a member is to go (scale-in, pool too large, model too old). `failures` go with its drives."""

    member: Member
    reason: str
    failures: int = 0


@dataclass(frozen=True)
class Settle:
    """Record that a set's wish is met, or that only waiting can help (`stuck` says why)."""

    set_name: str
    generation: int
    stuck: str
    reason: str


@dataclass(frozen=True)
class NotePool:
    """Record what became of a set's pool; `events` are (kind, words)."""

    set_name: str
    condition: PoolCondition
    events: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True)
class NoteRollout:
    """Record how far a changed model of a set has come; `events` are (kind, words)."""

    set_name: str
    condition: RolloutCondition
    events: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True)
class NoteWait:
    """Record why machines of a set are not begun yet: `why` with each member, `reason` in one event."""

    set_name: str
    members: tuple[Member, ...]
    why: str
    reason: str


@dataclass(frozen=True)
class Renew:
    """Record that an instance of an older model gets a new machine under its name."""

    member: Member
    reason: str


@dataclass(frozen=True)
class ForgetSet:
    """Remove the record of a deleted set that has no members left."""

    set_name: str
    reason: str


@dataclass(frozen=True)
class Effect:
    """Work on one member's machine."""

    kind: EffectKind
    member: Member
    reason: str


@dataclass(frozen=True)
class Interrupt:
    """Stop the work under way on a member, because it is no longer wanted or cannot succeed. `went_off`: its
    machine did, while it was waited for after a start, which counts as one that did not help."""

    member: Member
    reason: str
    went_off: bool = False


@dataclass(frozen=True)
class RemoveLeak:
    """Remove a machine of ours that no record names, seen for the second time."""

    host: str
    domain: str
    reason: str


@dataclass(frozen=True)
class RemoveGolden:
    """Remove a host's golden image of a model that nothing there is of any more."""

    host: str
    model: str
    reason: str


@dataclass(frozen=True)
class Resume:
    """Let a machine go on that was paused because its disk could not be written. It may be paused again."""

    host: str
    domain: str
    reason: str


@dataclass(frozen=True)
class ConvergeBalancer:
    """Make the running load balancer and its file equal to `config`."""

    config: BalancerConfig
    reason: str


RecordStep = (
    Admit
    | Claim
    | Advance
    | Repair
    | NoteHealth
    | GiveUp
    | NoteRestart
    | Retire
    | Renew
    | Settle
    | NotePool
    | NoteRollout
    | NoteWait
    | ForgetSet
)
Note = Settle | NotePool | NoteRollout | NoteHealth | GiveUp | NoteWait
"""What is only told: nothing would be done to the world."""
Step = RecordStep | Effect | Interrupt | RemoveLeak | RemoveGolden | Resume | ConvergeBalancer


def set_of(step: Step) -> str:
    """Name of the scale set a step is about; empty for the load balancer and for what is done to a
    machine as its host shows it."""
    match step:
        case Admit() | Settle() | NotePool() | NoteRollout() | NoteWait() | ForgetSet():
            return step.set_name
        case (
            Claim()
            | Advance()
            | Repair()
            | NoteHealth()
            | GiveUp()
            | NoteRestart()
            | Retire()
            | Renew()
            | Effect()
            | Interrupt()
        ):
            return step.member.set_name
        case _:
            return ""


@dataclass(frozen=True)
class Plan:
    """Steps in order of urgency; `wake_at` (epoch seconds) is when a look is due without any event."""

    steps: tuple[Step, ...]
    wake_at: float | None = None
    suspects: frozenset[tuple[str, str]] = frozenset()
