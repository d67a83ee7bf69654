"""When a look needs no plan: nothing was to be done, nothing waits, and nothing has changed since.

While every set is as declared and every member where it should be, a plan depends on the records and on what is
seen alone, not on the moment. So the same picture gives the same empty plan; docs/loop.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.lifecycle.table import AT_REST
from orchestrator.models.members import RolloutLevel
from orchestrator.models.sightings import Observed
from orchestrator.models.steps import EffectKind, Plan
from orchestrator.planner import Desired
from orchestrator.ports.clock import Clock

PLANNED_WITHIN = 60.0  # seconds; however still it is, it is planned that often


def is_at_rest(desired: Desired) -> bool:
    """Every set as declared, every member where it should be, none of them tried again or watched for a while."""
    sets_rest = all(
        one.settled_generation == one.generation
        and not (one.stuck or one.deleting)
        and one.rollout.level is RolloutLevel.NONE
        for one in desired.sets
    )
    return (
        sets_rest
        and not desired.hold
        and all(
            one.phase in AT_REST and one.request is None and not one.failures and one.unhealthy_since is None
            for one in desired.members
        )
    )


@dataclass(frozen=True)
class _Picture:
    """What a plan at rest depends on: of hosts not how much memory is free just now, of servers not how many
    sessions they have."""

    desired: Desired
    hosts: tuple[object, ...]
    balancer: tuple[object, ...]
    services: tuple[object, ...]

    @classmethod
    def of(cls, desired: Desired, observed: Observed) -> _Picture:
        hosts = tuple(
            (one.name, one.zone, one.answers, one.reason, one.memory_total, one.machines, one.goldens)
            for one in observed.hosts.values()
        )
        seen = observed.balancer
        servers = {key: (server.state, server.is_up) for key, server in seen.servers.items()}
        balancer = (seen.running, seen.digest, seen.trouble, servers)
        return cls(desired, hosts, balancer, (observed.silent, dict(observed.troubled)))


class Stillness:
    """Remembers the last picture for which nothing was planned."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._picture: _Picture | None = None
        self._planned_at = 0.0

    def needs_no_plan(self, desired: Desired, observed: Observed, busy: Mapping[str, EffectKind]) -> bool:
        if self._picture is None or busy or self._clock.monotonic() - self._planned_at >= PLANNED_WITHIN:
            return False
        return self._picture == _Picture.of(desired, observed)

    def remember(self, desired: Desired, observed: Observed, busy: Mapping[str, EffectKind], made: Plan) -> None:
        """What was planned for it just now."""
        is_still = not (busy or made.steps or made.suspects) and made.wake_at is None and is_at_rest(desired)
        self._picture = _Picture.of(desired, observed) if is_still else None
        self._planned_at = self._clock.monotonic()
