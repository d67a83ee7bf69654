"""What the store records: images, scale sets and their members."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive


class Role(StrEnum):
    """Inside the set, or in its reserve."""

    INSTANCE = "instance"
    STANDBY = "standby"


class Phase(StrEnum):
    """Where a member is in its life; the table in `lifecycle` says what happens next."""

    CREATING = "creating"  # disks, seed and domain are being made
    PROVISIONING = "provisioning"  # first boot: setup, steps, readiness
    READY = "ready"  # services answer; about to enter rotation or to be parked
    PARKING = "parking"  # on the way to the pool's declared power state
    STANDBY = "standby"  # in the pool, claimable
    STARTING = "starting"  # machine exists; being started, services not yet seen
    IN_SERVICE = "in_service"  # in rotation
    STOPPED = "stopped"  # switched off by the operator, and left so
    DRAINING = "draining"  # leaving rotation before something happens to the machine
    DELETING = "deleting"  # machine, disks and address are being given back
    FAILED = "failed"  # could not be created; its machine is gone; tried again later


class Request(StrEnum):
    """What the operator (or scale-in) wants done to one member, kept until it is done."""

    REIMAGE = "reimage"
    REDEPLOY = "redeploy"  # a reimage that begins new local storage
    RESTART = "restart"
    STOP = "stop"
    START = "start"
    REMOVE = "remove"


class PoolState(StrEnum):
    """The power state in which ready pool members are parked."""

    RUNNING = "running"
    HIBERNATED = "hibernated"  # memory saved to disk
    STOPPED = "stopped"


class GuestPhase(StrEnum):
    """What a guest reads about itself."""

    STANDBY = "standby"
    IN_SERVICE = "in_service"
    DRAINING = "draining"


@dataclass(frozen=True)
class Image:
    """An immutable base disk. `size` and `virtual_size` are bytes; `digest` is sha256 hex of the qcow2 file."""

    name: str
    version: int
    digest: str
    size: int
    virtual_size: int
    created_at: float
    source: str

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def is_lost(self) -> bool:
        """Its record is gone, though something names it: no machine can be made from it."""
        return not self.digest


def lost_image(name: str, version: int) -> Image:
    """Stands for a version that is recorded no more."""
    return Image(name, version, digest="", size=0, virtual_size=0, created_at=0.0, source="")


@dataclass(frozen=True)
class Member:
    """One instance or pool member. Times are seconds since the epoch.

    `parked` is the state a pool member is, or is being, parked in; a claimed one keeps it until it is in service.
    `failures` counts tries that did not help, `last_failure` says of the last of them what was the matter (empty
    without any). `restarts` counts those of its guest during setup. `unhealthy_since` is
    when its services were first seen not to answer, None while they do; of a starting one, since when it is held
    out of rotation because it restarts over and over. `told` is what its guest was told since
    it booted, `entered` whether this body has been in service, or has run on_claim; `served` whether the instance
    has been, with any body, or has taken the place of one that had been. `storage_since` is the
    incarnation with which its local storage began, `drives` are those it holds. `memory` (bytes) is what its
    machine has, or the next one if that is more, until it is there; 0: an older version recorded it, nobody knows.
    """

    name: str
    set_name: str
    role: Role
    phase: Phase
    host: str
    zone: str
    address: str
    mac: str
    incarnation: int
    model: str
    image_digest: str
    request: Request | None
    reason: str
    failures: int
    created_at: float
    phase_since: float
    parked: PoolState | None = None
    restarts: int = 0
    unhealthy_since: float | None = None
    told: GuestPhase | None = None
    entered: bool = False
    storage_since: int = 1
    last_failure: str = ""
    served: bool = False
    memory: int = 0
    drives: tuple[Drive, ...] = ()

    @property
    def is_leaving(self) -> bool:
        """True once the member no longer counts toward any size."""
        return self.phase is Phase.DELETING or self.request is Request.REMOVE


class PoolLevel(StrEnum):
    """How full a standby pool is, as last told."""

    NEVER = "never filled"
    FILLING = "filling"
    FULL = "full"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class PoolCondition:
    """`is_degraded`: a member of the pool could not be created."""

    level: PoolLevel = PoolLevel.NEVER
    is_degraded: bool = False


class RolloutLevel(StrEnum):
    """How far a changed model has come, as last told."""

    NONE = "none"
    ON = "on"
    BACK = "back"  # to the model before one whose rollout had not ended
    STOPPED = "stopped"


@dataclass(frozen=True)
class RolloutCondition:
    """`model`: the one that was being rolled out when this was told."""

    level: RolloutLevel = RolloutLevel.NONE
    model: str = ""


@dataclass(frozen=True)
class ScaleSet:
    """A declared set: its spec, its current model and whether it is being taken away.

    `generation` grows with every wish; the controller answers with `settled_generation` once a look at the
    world found nothing more to do for it, and with `stuck` while only waiting could help. `pool` is the condition
    of its pool that was last told, `rollout` that of the change of its model. `file`: the path of the file that
    declares it, empty if none is known to.
    """

    spec: ScaleSetSpec
    model: str
    image: Image
    generation: int
    settled_generation: int
    deleting: bool
    stuck: str
    pool: PoolCondition = PoolCondition()
    rollout: RolloutCondition = RolloutCondition()
    file: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def standby_target(self) -> int:
        """Pool size: max(min_ready, max_ready - instances), 0 without a pool or while being deleted (row B7)."""
        pool = self.spec.standby
        if pool is None or self.deleting:
            return 0
        return max(pool.min_ready, pool.max_ready - self.spec.instances)

    @property
    def standby_floor(self) -> int:
        """Below this the pool is filled at once, whatever else is under way (row B7); never above the target."""
        pool = self.spec.standby
        return min(pool.min_ready, self.standby_target) if pool is not None else 0

    @property
    def wanted_instances(self) -> int:
        return 0 if self.deleting else self.spec.instances

    @property
    def pool_shares(self) -> dict[PoolState, int]:
        """Percent of the pool by the state it is parked in; they add up to 100."""
        pool = self.spec.standby
        return (
            {PoolState(state): share for state, share in pool.shares.items()} if pool else {PoolState.STOPPED: 100}
        )

    @property
    def pool_state(self) -> PoolState:
        """The state of the pool; of a mix, its largest part."""
        shares = self.pool_shares
        return max(shares, key=lambda state: shares[state])
