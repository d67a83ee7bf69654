"""What a guest is told of its own phase, and the hooks that run with it (row D2).

    standby     a pool member that is set up, before it is parked
    in_service  an instance, after every boot, once it is in rotation; the first time with on_claim, before
    draining    an instance that HAProxy sends nothing new, with on_drain

What was told is recorded (`Member.told`) and forgotten with every boot, because the guest keeps it in /run. That
an instance has been in service with this body is recorded too (`Member.entered`): on_claim runs once for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.models.members import GuestPhase, Member, Phase, Role, ScaleSet
from orchestrator.models.spec import ScaleSetSpec

PHASE_FILE = "/run/understudy/phase"

_TOLD = {
    GuestPhase.STANDBY: "that it stands by",
    GuestPhase.IN_SERVICE: "that it is in service",
    GuestPhase.DRAINING: "that it is being drained",
}


@dataclass(frozen=True)
class Hook:
    """Commands, in order; `timeout` is seconds for all of them together."""

    name: str
    commands: tuple[str, ...]
    timeout: float


def can_be_told(spec: ScaleSetSpec) -> bool:
    """Only guests with the product's keys are reached."""
    return spec.setup.answer_file == "cloud-init"


def has_done_with_seed(spec: ScaleSetSpec) -> bool:
    """Whether no machine of this set needs its seed once it is ready. Of a Windows guest only probes tell that."""
    if spec.setup.keep_seed or spec.setup.answer_file == "none":
        return False
    return can_be_told(spec) or bool(spec.readiness)


def guest_phase(member: Member) -> GuestPhase:
    """What the member's guest should read."""
    if member.phase is Phase.DRAINING:
        return GuestPhase.DRAINING
    return GuestPhase.STANDBY if member.role is Role.STANDBY else GuestPhase.IN_SERVICE


def is_untold(member: Member, wanted: ScaleSet) -> bool:
    """The guest does not know its phase yet."""
    return can_be_told(wanted.spec) and member.told is not guest_phase(member)


def has_to_enter(member: Member, wanted: ScaleSet) -> bool:
    """An instance whose on_claim has still to run before it may enter rotation."""
    hooks = wanted.spec.hooks
    return (
        bool(hooks.on_claim) and can_be_told(wanted.spec) and member.role is Role.INSTANCE and not member.entered
    )


def find_hook(member: Member, wanted: ScaleSet) -> Hook | None:
    """What runs in the guest when it is told its phase now."""
    hooks = wanted.spec.hooks
    if member.phase is Phase.DRAINING and hooks.on_drain:
        return Hook("on_drain", hooks.on_drain, hooks.timeout)
    if member.phase is Phase.STARTING and has_to_enter(member, wanted):
        return Hook("on_claim", hooks.on_claim, hooks.timeout)
    return None


def telling(member: Member, wanted: ScaleSet) -> str:
    """The reason of a TELL."""
    hook = find_hook(member, wanted)
    if hook is not None:
        return f"running {hook.name} in {member.name}"
    return f"telling {member.name} {_TOLD[guest_phase(member)]}"


def told(member: Member) -> str:
    """The same in the past."""
    return f"{member.name} was told {_TOLD[guest_phase(member)]}"


def tell_script(phase: GuestPhase) -> str:
    """A shell script that makes the phase file say so, in one moment."""
    beside = f"{PHASE_FILE}.$$"
    folder = PHASE_FILE.rpartition("/")[0]
    there_is = f"[ -d {folder} ] || mkdir -p {folder}"
    return f"umask 022; {there_is} && printf '{phase.value}\\n' > {beside} && mv -f {beside} {PHASE_FILE}"
