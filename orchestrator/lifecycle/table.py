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
    WATCH = "watch"  # in service: nothing to do but to tell it so
    SWITCH_OFF = "switch_off"  # stopped by the operator, but it runs
    STAY_OFF = "stay_off"  # stopped by the operator: nothing to do
    HEAL = "heal"  # ready but off: start it again
    REPAIR = "repair"  # in service but off or gone: `planner.repair` decides
    REBUILD = "rebuild"  # the machine vanished: a new body from the image
    DRAIN = "drain"
    CONTINUE = "continue"  # nothing left to drain: do what the drain was for
    DESTROY = "destroy"
    CLEAN = "clean"  # failed: remove what is left of the machine
    RETRY = "retry"  # failed and clean: try again when the pause is over


RUNNING, STOPPED, HIBERNATED = Power.RUNNING, Power.STOPPED, Power.HIBERNATED
CRASHED, ABSENT = Power.CRASHED, Power.ABSENT
A = Action

_SEEN = (RUNNING, STOPPED, HIBERNATED, CRASHED, ABSENT)


def _row(*actions: Action) -> dict[Power, Action]:
    return dict(zip(_SEEN, actions, strict=True))


TABLE: dict[Phase, dict[Power, Action]] = {
    # phase: running, stopped, hibernated, crashed, absent
    Phase.CREATING: _row(A.CREATE, A.CREATE, A.CREATE, A.CREATE, A.CREATE),
    Phase.PROVISIONING: _row(A.PROVISION, A.FAIL, A.FAIL, A.FAIL, A.FAIL),
    Phase.READY: _row(A.SETTLE_IN, A.HEAL, A.HEAL, A.HEAL, A.REBUILD),
    Phase.PARKING: _row(A.PARK, A.REST, A.REST, A.REBUILD, A.REBUILD),
    Phase.STANDBY: _row(A.KEEP, A.KEEP, A.KEEP, A.REBUILD, A.REBUILD),
    Phase.STARTING: _row(A.AWAIT, A.START, A.START, A.START, A.REBUILD),
    Phase.IN_SERVICE: _row(A.WATCH, A.REPAIR, A.REPAIR, A.REPAIR, A.REPAIR),
    Phase.STOPPED: _row(A.SWITCH_OFF, A.STAY_OFF, A.STAY_OFF, A.STAY_OFF, A.STAY_OFF),
    Phase.DRAINING: _row(A.DRAIN, A.CONTINUE, A.CONTINUE, A.CONTINUE, A.CONTINUE),
    Phase.DELETING: _row(A.DESTROY, A.DESTROY, A.DESTROY, A.DESTROY, A.DESTROY),
    Phase.FAILED: _row(A.CLEAN, A.CLEAN, A.CLEAN, A.CLEAN, A.RETRY),
}

# What an effect that succeeded makes of its member; None: the record goes too.
AFTER_SUCCESS: dict[tuple[Phase, EffectKind], Phase | None] = {
    (Phase.CREATING, EffectKind.CREATE): Phase.PROVISIONING,
    (Phase.CREATING, EffectKind.FORK): Phase.PROVISIONING,
    (Phase.PROVISIONING, EffectKind.PROVISION): Phase.READY,
    (Phase.STARTING, EffectKind.START): Phase.STARTING,
    (Phase.STARTING, EffectKind.AWAIT): Phase.READY,
    (Phase.PARKING, EffectKind.SHUT_DOWN): Phase.STANDBY,
    (Phase.PARKING, EffectKind.HIBERNATE): Phase.STANDBY,
    (Phase.DRAINING, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.IN_SERVICE, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.READY, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.STARTING, EffectKind.SHUT_DOWN): Phase.STARTING,
    (Phase.STOPPED, EffectKind.SHUT_DOWN): Phase.STOPPED,
    (Phase.STARTING, EffectKind.TELL): Phase.STARTING,
    (Phase.READY, EffectKind.TELL): Phase.READY,
    (Phase.STANDBY, EffectKind.TELL): Phase.STANDBY,
    (Phase.IN_SERVICE, EffectKind.TELL): Phase.IN_SERVICE,
    (Phase.DRAINING, EffectKind.TELL): Phase.DRAINING,
    (Phase.STANDBY, EffectKind.TAKE_GOLDEN): Phase.STANDBY,
    (Phase.PARKING, EffectKind.TAKE_GOLDEN): Phase.PARKING,
    (Phase.IN_SERVICE, EffectKind.TAKE_GOLDEN): Phase.IN_SERVICE,
    (Phase.DELETING, EffectKind.DESTROY): None,
    (Phase.FAILED, EffectKind.DESTROY): Phase.FAILED,
}

# Effects whose failure means the machine is no good. Any other failure leaves the phase, to be tried again.
FATAL = frozenset(
    {
        (Phase.CREATING, EffectKind.CREATE),
        (Phase.CREATING, EffectKind.FORK),  # if no golden image can be used, the machine boots instead
        (Phase.PROVISIONING, EffectKind.PROVISION),
        (Phase.STARTING, EffectKind.AWAIT),  # of what was in service, `planner.restarts` decides
        (Phase.STARTING, EffectKind.TELL),  # on_claim; of a claimed member the claim fails instead
        (Phase.PARKING, EffectKind.SHUT_DOWN),
        (Phase.PARKING, EffectKind.HIBERNATE),
    }
)

# A machine that surely does not run.
OFF = frozenset({STOPPED, HIBERNATED, CRASHED, ABSENT})

# Work that waits for a guest cannot succeed once its machine is seen like this.
HOPELESS: dict[EffectKind, frozenset[Power]] = {
    EffectKind.PROVISION: OFF,
    EffectKind.AWAIT: OFF,
    EffectKind.TELL: OFF,
}

# Phases in which a machine may carry sessions, so that it is drained before anything is done to it.
CARRIES_TRAFFIC = frozenset({Phase.READY, Phase.IN_SERVICE})

# Phases in which a machine is not yet what its model says; a change of model starts it over.
UNFINISHED = frozenset({Phase.CREATING, Phase.PROVISIONING})

# Phases of a member that is where it should be.
AT_REST = frozenset({Phase.IN_SERVICE, Phase.STANDBY, Phase.STOPPED})

# The phase that answers a request once nothing is left to drain.
ANSWER: dict[Request, Phase] = {
    Request.REIMAGE: Phase.CREATING,
    Request.REDEPLOY: Phase.CREATING,
    Request.STOP: Phase.STOPPED,
    Request.START: Phase.STARTING,
    Request.REMOVE: Phase.DELETING,
}
