"""haproxy.cfg from a BalancerConfig."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from orchestrator.models.balancing import BalancerConfig, HealthCheck
from orchestrator.models.sightings import Rotation

if TYPE_CHECKING:
    from jinja2 import Template


# Seconds that a client's connection may be idle between two requests. Drains wait that long for clients of a
# replaced process; a shorter time would cut off more of those that ask seldom just as they ask.
KEEP_ALIVE = 20


@dataclass(frozen=True)
class HaproxyProcess:
    """Where the process keeps its things; `user` empty: it keeps user and group of who starts it."""

    stats_socket: str
    pid_file: str
    state_file: str
    user: str = ""
    group: str = ""
    keep_alive: int = KEEP_ALIVE


def check_options(check: HealthCheck) -> str:
    """The health check of a server, shared by the file and the runtime API (which knows no `default-server`).

    While a server is failing or coming up it is asked five times as often, so that an answer counts at once.
    """
    interval = max(int(check.interval * 1000), 10)
    return f"check inter {interval} fastinter {max(interval // 5, 10)} downinter {max(interval // 5, 10)} " + (
        f"fall {check.failures} rise 1 observe layer4 error-limit 1 on-error mark-down"
    )


def state_options(state: Rotation) -> str:
    """How a server line says its administrative state, so that a restart forgets none."""
    return {Rotation.READY: "", Rotation.DRAIN: " weight 0", Rotation.MAINT: " disabled"}[state]


def render_haproxy(template: str, config: BalancerConfig, process: HaproxyProcess) -> str:
    """The configuration file; `template` is the text of templates/haproxy.cfg.j2."""
    return _compiled(template).render(frontends=config.frontends, digest=config.digest(), process=process)


@cache
def _compiled(template: str) -> Template:
    # Loaded when a file is first written: a set that only grows changes the process, then the file.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - this is no HTML
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["check_options"] = check_options
    environment.filters["state_options"] = state_options
    return environment.from_string(template)
