"""(phase, power seen) -> action: the whole life of a member on one page.

`Power.UNKNOWN` is in no row on purpose: a host that does not answer is waited for, and nothing on it is
destroyed or replaced. `docs/loop.md` draws this table.
"""

from __future__ import annotations

from enum import StrEnum

from orchestrator.models.members import Phase, Request
from orchestrator.models.sightings import Power
from orchestrator.models.steps import EffectKind


class Action(StrEnum):
    CREATE = "create"
    PROVISION = "provision"
    FAIL = "fail"  # the machine went away during its setup
    SETTLE_IN = "settle_in"  # ready: enter rotation, or be parked
    START = "start"
    AWAIT = "await"  # running: wait for its services
    PARK = "park"
    REST = "rest"  # parked: record it
    KEEP = "keep"  # in the pool: keep it in the declared power state
    WATCH = "watch"  # in service: nothing to do
    HEAL = "heal"  # in service but off: start it again
    REBUILD = "rebuild"  # the machine vanished: a new body from the image
    DRAIN = "drain"
    CONTINUE = "continue"  # nothing left to drain: do what the drain was for
    DESTROY = "destroy"
    CLEAN = "clean"  # failed: remove what is left of the machine
    RETRY = "retry"  # failed and clean: try again when the pause is over


RUNNING, STOPPED, CRASHED, ABSENT = Power.RUNNING, Power.STOPPED, Power.CRASHED, Power.ABSENT
A = Action

TABLE: dict[Phase, dict[Power, Action]] = {
    Phase.CREATING: {RUNNING: A.CREATE, STOPPED: A.CREATE, CRASHED: A.CREATE, ABSENT: A.CREATE},
    Phase.PROVISIONING: {RUNNING: A.PROVISION, STOPPED: A.FAIL, CRASHED: A.FAIL, ABSENT: A.FAIL},
    Phase.READY: {RUNNING: A.SETTLE_IN, STOPPED: A.HEAL, CRASHED: A.HEAL, ABSENT: A.REBUILD},
    Phase.PARKING: {RUNNING: A.PARK, STOPPED: A.REST, CRASHED: A.REBUILD, ABSENT: A.REBUILD},
    Phase.STANDBY: {RUNNING: A.KEEP, STOPPED: A.KEEP, CRASHED: A.REBUILD, ABSENT: A.REBUILD},
    Phase.STARTING: {RUNNING: A.AWAIT, STOPPED: A.START, CRASHED: A.START, ABSENT: A.REBUILD},
    Phase.IN_SERVICE: {RUNNING: A.WATCH, STOPPED: A.HEAL, CRASHED: A.HEAL, ABSENT: A.REBUILD},
    Phase.DRAINING: {RUNNING: A.DRAIN, STOPPED: A.CONTINUE, CRASHED: A.CONTINUE, ABSENT: A.CONTINUE},
    Phase.DELETING: {RUNNING: A.DESTROY, STOPPED: A.DESTROY, CRASHED: A.DESTROY, ABSENT: A.DESTROY},
    Phase.FAILED: {RUNNING: A.CLEAN, STOPPED: A.CLEAN, CRASHED: A.CLEAN, ABSENT: A.RETRY},
}

# What an effect that succeeded makes of its member; None: the record goes too.
AFTER_SUCCESS: dict[tuple[Phase, EffectKind], Phase | None] = {
    (Phase.CREATING, EffectKind.CREATE): Phase.PROVISIONING,
    (Phase.PROVISIONING, EffectKind.PROVISION): Phase.READY,
    (Phase.STARTING, EffectKind.START): Phase.STARTING,
    (Phase.STARTING, EffectKind.AWAIT): Phase.READY,
    (Phase.PARKING, EffectKind.SHUT_DOWN): Phase.STANDBY,
    (Phase.DRAINING, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.IN_SERVICE, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.READY, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.STARTING, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.DELETING, EffectKind.DESTROY): None,
    (Phase.FAILED, EffectKind.DESTROY): Phase.FAILED,
}

# Effects whose failure means the machine is no good. Any other failure leaves the phase, to be tried again.
FATAL = frozenset(
    {
        (Phase.CREATING, EffectKind.CREATE),
        (Phase.PROVISIONING, EffectKind.PROVISION),
        (Phase.STARTING, EffectKind.AWAIT),
        (Phase.PARKING, EffectKind.SHUT_DOWN),
    }
)

# Work that waits for a guest cannot succeed once its machine is seen like this.
HOPELESS: dict[EffectKind, frozenset[Power]] = {
    EffectKind.PROVISION: frozenset({STOPPED, CRASHED, ABSENT}),
    EffectKind.AWAIT: frozenset({STOPPED, CRASHED, ABSENT}),
}

# Phases in which a machine may carry sessions, so that it is drained before anything is done to it.
CARRIES_TRAFFIC = frozenset({Phase.READY, Phase.IN_SERVICE})

# Phases in which a machine is not yet what its model says; a change of model starts it over.
UNFINISHED = frozenset({Phase.CREATING, Phase.PROVISIONING})

# The phase that answers a request once nothing is left to drain.
ANSWER: dict[Request, Phase] = {
    Request.REIMAGE: Phase.CREATING,
    Request.REMOVE: Phase.DELETING,
}
