"""What an audit finds, and what may be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    MACHINE = "machine"
    VOLUME = "volume"
    LOG = "log"  # what a console has shown
    SEED = "seed"  # answer files, with what is secret in them
    DRIVE = "drive"
    REMNANT = "remnant"  # a memory image, UEFI variables, a TPM's state without its machine
    RESERVATION = "reservation"
    BALANCER = "balancer"
    PROCESS = "process"
    IMAGE = "image"
    SCRATCH = "scratch"
    UPLOAD = "upload"
    SECRET = "secret"  # noqa: S105 - the word, not one
    COPY = "copy"  # what is kept beside the store for the day on which it is lost
    PROBE = "probe"  # the guest by which KVM is tried
    SET = "set"
    STORE = "store"


class Fault(StrEnum):
    LEFT_OVER = "left over"
    MISSING = "missing"
    WRONG = "wrong"


class Remedy(StrEnum):
    """Who puts it right."""

    REMOVE = "remove"  # `audit --fix`: provably ours, and not needed
    CONVERGE = "converge"  # `audit --fix`: the load balancer is made as it should be
    CONTROLLER = "controller"  # the loop, which the audit never anticipates
    OPERATOR = "operator"


@dataclass(frozen=True)
class Finding:
    """One difference. `host` is empty for what is on the controller's own machine; `target` is what the remedy
    acts on, where that is not the name; `settles_in`: seconds that work under way may look like this."""

    kind: Kind
    fault: Fault
    name: str
    host: str
    wrong: str
    fix: str
    remedy: Remedy
    target: str = ""
    settles_in: float = 1.0

    @property
    def is_fixable(self) -> bool:
        return self.remedy in (Remedy.REMOVE, Remedy.CONVERGE)
