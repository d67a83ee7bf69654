"""`plan(desired, observed, busy, now)`: pure arithmetic from wish and sighting to steps."""

from orchestrator.planner.plan import plan
from orchestrator.planner.world import Desired, Limits

__all__ = ["Desired", "Limits", "plan"]
