"""Looks at all hosts at once. One that takes too long is unknown until its answer has come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from orchestrator.models.sightings import HostSighting
from orchestrator.ports.hypervisor import Hypervisor

log = logging.getLogger("understudy.lookout")

LOOK_DEADLINE = 5.0  # seconds; a look may have to wait until the host has started a machine


@dataclass
class _Look:
    """One look at one host; `stamp` is what was known of the host when it began."""

    stamp: object
    sighting: HostSighting | None = None
    is_late: bool = False


class Lookout:
    """At most one look at each host is under way. `deadline` is seconds; `on_late` is called from another thread
    when an answer has come after it."""

    def __init__(
        self,
        hosts: Mapping[str, Hypervisor],
        deadline: float = LOOK_DEADLINE,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        self._hosts = hosts
        self._deadline = deadline
        self._on_late = on_late
        self._answered = threading.Condition()
        self._looks: dict[str, _Look] = {}
        self._missed_reboots: dict[str, set[tuple[str, int]]] = {}  # host -> (domain, incarnation)

    def look(self, stamps: Mapping[str, object] | None = None) -> dict[str, HostSighting]:
        """Every host, in the order in which they were given.

        A look that was late before is not waited for. Its answer is used if the host's stamp (its records and the
        work under way on it) is still the one of its beginning: what was seen before a machine was made says
        nothing about that machine.
        """
        with self._answered:
            for name in self._hosts:
                self._begin(name, (stamps or {}).get(name))
            self._answered.wait_for(self._is_over, self._deadline)
            return {name: self._take(name) for name in self._hosts}

    def _begin(self, name: str, stamp: object) -> None:
        before = self._looks.get(name)
        if before is not None:
            if before.sighting is None or before.stamp == stamp:
                return
            self._remember_reboots(before.sighting)
        look = self._looks[name] = _Look(stamp)
        # A host that hangs must not keep the process from ending.
        threading.Thread(target=self._observe, args=(name, look), name=f"look-{name}", daemon=True).start()

    def _observe(self, name: str, look: _Look) -> None:
        try:
            seen = self._hosts[name].observe()
        except Exception:  # no host may stop the look at the others
            log.exception("unexpected failure while looking at host %s", name)
            seen = self._silent(name, "internal error; see the controller's log")
        with self._answered:
            look.sighting = seen
            is_late = look.is_late
            self._answered.notify_all()
        if is_late:
            self._on_late()

    def _is_over(self) -> bool:
        return all(look.is_late or look.sighting is not None for look in self._looks.values())

    def _take(self, name: str) -> HostSighting:
        look = self._looks[name]
        if look.sighting is None:
            if not look.is_late:
                log.warning("host %s has not answered within %g s", name, self._deadline)
            look.is_late = True
            return self._silent(name, f"host {name} has not answered within {self._deadline:g} s")
        del self._looks[name]
        return self._with_missed_reboots(look.sighting)

    def _silent(self, name: str, reason: str) -> HostSighting:
        return HostSighting(name, self._hosts[name].zone, answers=False, reason=reason)

    def _remember_reboots(self, unused: HostSighting) -> None:
        """A host tells of a guest's restart once."""
        told = {(one.domain, one.incarnation) for one in unused.machines.values() if one.rebooted}
        self._missed_reboots.setdefault(unused.name, set()).update(told)

    def _with_missed_reboots(self, seen: HostSighting) -> HostSighting:
        missed = self._missed_reboots.get(seen.name)
        if not missed or not seen.answers:
            return seen
        del self._missed_reboots[seen.name]
        machines = {
            domain: replace(one, rebooted=one.rebooted or (domain, one.incarnation) in missed)
            for domain, one in seen.machines.items()
        }
        return replace(seen, machines=machines)
