"""What the controller records: one guarded write for each step, one for all that a turn admits.

Every write names the phase, incarnation and request it was planned for. If the row has moved on meanwhile, no
row matches and the result is dropped: the next look plans again from what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from orchestrator.errors import HostFull
from orchestrator.lifecycle.table import AFTER_SUCCESS
from orchestrator.lifecycle.telling import guest_phase, told
from orchestrator.models.members import Member, Phase, Request, Role
from orchestrator.models.naming import machine_mac
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.steps import (
    Admit,
    Advance,
    Claim,
    EffectKind,
    ForgetSet,
    GiveUp,
    NotePool,
    NoteRollout,
    NoteWait,
    RecordStep,
    Retire,
    Settle,
)
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.drives import Holder
from orchestrator.planner.repair import gave_up
from orchestrator.store.changes import (
    NO_FAILURES,
    as_planned,
    counted,
    has_drives,
    made_body,
    new_body,
    next_columns,
    plain_change,
)
from orchestrator.store.departed import is_departed, remember_departed
from orchestrator.store.drives import hold_drives, mark_made, pass_on_failures, release_drives
from orchestrator.store.fence import Fence
from orchestrator.store.golden import end_golden_trouble, note_golden_trouble
from orchestrator.store.redating import follow_clock
from orchestrator.store.rows import read_spec
from orchestrator.store.store import Store
from orchestrator.store.tables import events, facts, images, members, sets

KEPT_EVENTS = 20_000
# What a guest was told does not outlive these: its phase is told again.
_OFF_OR_ON = frozenset({EffectKind.START, EffectKind.SHUT_DOWN, EffectKind.HIBERNATE})
_MAKES = frozenset({EffectKind.CREATE, EffectKind.FORK})


class Recorder:
    """Performs the record steps of a plan, and records what became of its effects."""

    def __init__(
        self,
        store: Store,
        suffix: Callable[[], str],
        addresses: Callable[[], Iterable[str]],
        fence: Fence | None = None,
    ) -> None:
        self._store = store
        self._fence = fence
        self._suffix = suffix
        self._addresses = addresses
        self._installation = store.installation()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction of the controller. Raises LeaseLost if this process is not the controller any more."""
        with self._store.database.write() as connection:
            if self._fence is not None:
                self._fence.check_in(connection)
            yield connection

    def perform(self, step: RecordStep) -> bool:
        """True if the row was still as planned. Raises LeaseLost, as every record does."""
        if isinstance(step, Admit):
            return self.admit([step])
        with self._write() as connection:
            match step:
                case Claim():
                    return self._claim(connection, step)
                case Retire():
                    return self._retire(connection, step)
                case Advance():
                    return self._advance(connection, step)
                case GiveUp():
                    return self._give_up(connection, step)
                case NotePool() | NoteRollout():
                    return self._note_condition(connection, step)
                case NoteWait():
                    return self._note_wait(connection, step)
                case Settle():
                    return self._settle(connection, step)
                case ForgetSet():
                    return self._forget_set(connection, step)
                case _:
                    kind, values = plain_change(step)
                    return self._change(connection, step.member, step.reason, kind, values)

    def admit(self, steps: Sequence[Admit]) -> bool:
        """All of them in one transaction, as far as addresses go; False if their sets are gone. Raises HostFull if
        there is no address at all."""
        with self._write() as connection:
            free = self._free_addresses(connection)
            admitted = 0
            for step in steps:
                try:
                    admitted += self._admit(connection, step, free)
                except HostFull:
                    if not admitted:
                        raise
                    break  # the next look plans the rest, and says what it lacks
            return admitted > 0

    def succeeded(self, member: Member, kind: EffectKind, reason: str) -> bool:
        """Record what a finished effect made of its member."""
        following = AFTER_SUCCESS[member.phase, kind]
        with self._write() as connection:
            if member.drives and has_drives(member, kind):
                mark_made(connection, self._spec(connection, member.set_name), member)
            if following is None:
                done = connection.execute(delete(members).where(as_planned(member)))
                if done.rowcount:
                    release_drives(connection, member.name)
                    remember_departed(connection, [member.name], self._store.now())
                    self._note(connection, member.set_name, member.name, "deleted", f"{member.name} is gone")
                return bool(done.rowcount)
            values: dict[str, Any] = {}
            if kind is EffectKind.TELL:
                return self._note_told(connection, member, "told", told(member))
            is_restart = kind is EffectKind.SHUT_DOWN and member.request is Request.RESTART
            if is_restart:
                values["request"] = None
            if kind in _OFF_OR_ON and member.told is not None:
                values["told"] = None
            if following is not member.phase or is_restart:  # which begins a start, or begins it anew
                values |= {"phase": following.value, "phase_since": self._store.now()}
                values |= NO_FAILURES if following is Phase.STANDBY else {}
                if kind in _MAKES:
                    values |= made_body(member, self._set_row(connection, member.set_name))
            if not values:
                return True
            return self._change(connection, member, f"{reason}: done", following.value, values)

    def failed(self, member: Member, reason: str) -> bool:
        """Record that a machine is no good; it is removed and tried again after a pause."""
        values = {"phase": Phase.FAILED.value, **counted(member.failures + 1, reason)}
        with self._write() as connection:
            done = self._change(connection, member, reason, "failed", values)
            if done:
                self._note_if_last_try(connection, member, member.failures + 1, reason)
            return done

    def could_not_tell(self, member: Member, kind: str, reason: str) -> bool:
        """Record that a guest could not be told its phase, or its hook failed, and that this changes nothing."""
        with self._write() as connection:
            return self._note_told(connection, member, kind, reason)

    def refused(self, member: Member, reason: str) -> bool:
        """Record that a claimed member cannot serve: it is to go, and another one is claimed."""
        with self._write() as connection:
            return self._change(connection, member, reason, "claim_failed", {"request": Request.REMOVE.value})

    def follow_clock(self, before: float, by: float, reason: str) -> None:
        """Record that the clock was set (`store/redating.py`), with an event of each set."""
        with self._write() as connection:
            follow_clock(connection, before, by, self._store.now())
            for name in connection.execute(select(sets.c.name)).scalars().all():
                self._note(connection, name, "", "clock_set", reason)

    def _note_told(self, connection: Connection, member: Member, kind: str, words: str) -> bool:
        values: dict[str, Any] = {"told": guest_phase(member).value}
        values |= {"entered": True} if member.phase is Phase.STARTING else {}
        done = connection.execute(update(members).where(as_planned(member)).values(**values))
        if done.rowcount:
            self._note(connection, member.set_name, member.name, kind, words)
        return bool(done.rowcount)

    def golden_taken(self, member: Member, reason: str) -> None:
        """Record that there is a golden image of the member's model on its host."""
        with self._write() as connection:
            end_golden_trouble(connection, member.host, member.model)
            self._note(connection, member.set_name, member.name, "golden_taken", reason)

    def golden_failed(self, member: Member, kind: str, reason: str, was_early: bool = False) -> None:
        """Record that none could be taken, or that no fork came of it; one event at first, one in the end."""
        with self._write() as connection:
            words = note_golden_trouble(connection, member, reason, self._store.now(), was_early)
            if words:
                self._note(connection, member.set_name, member.name, kind, words)

    def fork_is_well(self, member: Member) -> None:
        """Record that a fork of its model came to be."""
        with self._write() as connection:
            end_golden_trouble(connection, member.host, member.model)

    def complained(self, member: Member, reason: str) -> None:
        """Record a failure that leaves the phase as it is; the same one twice is one event."""
        with self._write() as connection:
            new = as_planned(member) & (members.c.reason != reason)
            done = connection.execute(update(members).where(new).values(reason=reason))
            if done.rowcount:
                self._note(connection, member.set_name, member.name, "trouble", reason)

    def _admit(self, connection: Connection, step: Admit, free: Iterator[str]) -> bool:
        row = connection.execute(select(sets).where(sets.c.name == step.set_name)).first()
        if row is None:
            return False
        address = next(free, None)
        if address is None:
            raise HostFull("every address of the range is taken", "widen network.range in config.toml")
        name, mac = self._allot_name(connection, step.set_name)
        now = self._store.now()
        connection.execute(
            insert(members).values(
                name=name,
                set_name=step.set_name,
                role=step.role.value,
                phase=Phase.CREATING.value,
                host=step.host,
                zone=step.zone,
                address=address,
                mac=mac,
                incarnation=1,
                model=row.model,
                image_digest=self._image_digest(connection, row),
                request=None,
                reason=step.reason,
                failures=0,
                created_at=now,
                phase_since=now,
                memory=read_spec(row.spec).machine.memory,
            )
        )
        self._note(connection, step.set_name, name, step.event or "admitted", step.reason)
        if step.role is Role.INSTANCE:
            self._begin_with_drives(connection, Holder(name, step.set_name, step.host), 0)
        return True

    def _claim(self, connection: Connection, step: Claim) -> bool:
        member = step.member
        kind, values = plain_change(step)
        if not self._change(connection, member, step.reason, kind, values):
            return False
        holder = Holder(member.name, member.set_name, member.host)
        self._begin_with_drives(connection, holder, step.failures)
        return True

    def _retire(self, connection: Connection, step: Retire) -> bool:
        kind, values = plain_change(step)
        done = self._change(connection, step.member, step.reason, kind, values)
        if done:
            pass_on_failures(connection, step.member.name, step.failures)
        return done

    def _begin_with_drives(self, connection: Connection, holder: Holder, failures: int) -> None:
        """A new instance goes on with the failures of the one whose drives it gets."""
        inherited = self._hold_drives(connection, holder)
        if inherited > failures:
            passed_on = counted(inherited, "the instance that had its drives before it did not come to serve")
            heir = members.c.name == holder.member
            connection.execute(update(members).where(heir).values(served=True, **passed_on))

    def _hold_drives(self, connection: Connection, holder: Holder) -> int:
        """The failures that went with what it has taken."""
        spec = self._spec(connection, holder.set_name)
        changes = hold_drives(connection, spec, holder, self._store.now())
        for _drive, words in changes:
            self._note(connection, holder.set_name, holder.member, "drive_held", words)
        return max((drive.failures for drive, _words in changes), default=0)

    def _spec(self, connection: Connection, set_name: str) -> ScaleSetSpec:
        return read_spec(self._set_row(connection, set_name).spec)

    def _set_row(self, connection: Connection, set_name: str) -> Any:
        return connection.execute(select(sets).where(sets.c.name == set_name)).one()

    def _allot_name(self, connection: Connection, set_name: str) -> tuple[str, str]:
        """(name, MAC) that nobody has, nor the name of one that was let go."""
        while True:
            name = f"{set_name}-{self._suffix()}"
            mac = machine_mac(self._installation, name)
            taken = select(members.c.name).where((members.c.name == name) | (members.c.mac == mac))
            if connection.execute(taken).first() is None and not is_departed(connection, name):
                return name, mac

    def _free_addresses(self, connection: Connection) -> Iterator[str]:
        """Lowest first, each once."""
        taken = set(connection.execute(select(members.c.address)).scalars())
        return (address for address in self._addresses() if address not in taken)

    def _image_digest(self, connection: Connection, row: Any) -> str:
        key = (images.c.name == row.image_name) & (images.c.version == row.image_version)
        return str(connection.execute(select(images.c.digest).where(key)).scalar_one())

    def _advance(self, connection: Connection, step: Advance) -> bool:
        values: dict[str, Any] = {}
        if step.new_body:
            declared = self._set_row(connection, step.member.set_name)
            values = new_body(step, declared, self._image_digest(connection, declared))
        values |= next_columns(step, self._store.now())
        kind = "unhealthy" if step.is_held else step.phase.value
        done = self._change(connection, step.member, step.reason, kind, values)
        if done and (step.phase is Phase.FAILED or step.is_held):
            failures = values.get("failures", step.member.failures)
            self._note_if_last_try(connection, step.member, failures, step.reason)
        if done and step.new_body and step.member.role is Role.INSTANCE:
            member = step.member
            self._hold_drives(connection, Holder(member.name, member.set_name, member.host))
        return done

    def _note_if_last_try(self, connection: Connection, member: Member, failures: int, reason: str) -> None:
        """After a try that failed: say that the instance is given up, if it was the last one (row D4)."""
        if member.role is Role.INSTANCE and failures >= MAX_TRIES:
            self._note_given_up(connection, member, gave_up(replace(member, failures=failures), reason))

    def _give_up(self, connection: Connection, step: GiveUp) -> bool:
        # Between plan and record the operator may have spoken, which only the count of tries tells.
        still = as_planned(step.member) & (members.c.failures == step.member.failures)
        done = connection.execute(update(members).where(still).values(reason=step.reason))
        if done.rowcount:
            self._note_given_up(connection, step.member, step.reason)
        return bool(done.rowcount)

    def _note_given_up(self, connection: Connection, member: Member, words: str) -> None:
        again = f"once the cause is mended: understudy reimage {member.set_name}/{member.name}"
        self._note(connection, member.set_name, member.name, "gave_up", f"{words}\n{again}")

    def _note_condition(self, connection: Connection, step: NotePool | NoteRollout) -> bool:
        values: dict[str, Any]
        if isinstance(step, NotePool):
            values = {"pool_level": step.condition.level.value, "pool_degraded": step.condition.is_degraded}
        else:
            values = {"rollout_level": step.condition.level.value, "rollout_model": step.condition.model}
        done = connection.execute(update(sets).where(sets.c.name == step.set_name).values(**values))
        for kind, words in step.events if done.rowcount else ():
            self._note(connection, step.set_name, "", kind, words)
        return bool(done.rowcount)

    def _note_wait(self, connection: Connection, step: NoteWait) -> bool:
        """Of those who were begun meanwhile it is not true any more."""
        waits = [update(members).where(as_planned(one)).values(reason=step.why) for one in step.members]
        done = sum(connection.execute(change).rowcount for change in waits)
        if done:
            self._note(connection, step.set_name, "", "waits", step.reason)
        return done > 0

    def _forget_set(self, connection: Connection, step: ForgetSet) -> bool:
        model = select(sets.c.model).where(sets.c.name == step.set_name).scalar_subquery()
        connection.execute(delete(facts).where(facts.c.key == "setup_seconds:" + model))
        connection.execute(delete(sets).where(sets.c.name == step.set_name))
        self._note(connection, step.set_name, "", "set_deleted", step.reason)
        return True

    def _settle(self, connection: Connection, step: Settle) -> bool:
        done = connection.execute(
            update(sets)
            .where((sets.c.name == step.set_name) & (sets.c.generation == step.generation))
            .values(settled_generation=step.generation, stuck=step.stuck)
        )
        if done.rowcount:
            self._note(connection, step.set_name, "", "stuck" if step.stuck else "converged", step.reason)
            newest = select(func.max(events.c.id)).scalar_subquery()
            connection.execute(delete(events).where(events.c.id <= newest - KEPT_EVENTS))
        return bool(done.rowcount)

    def _change(
        self, connection: Connection, member: Member, reason: str, kind: str, values: dict[str, Any]
    ) -> bool:
        if "phase" in values:
            values = {"phase_since": self._store.now(), "unhealthy_since": None, **values}
        done = connection.execute(update(members).where(as_planned(member)).values(reason=reason, **values))
        is_news = values.get("phase") != member.phase.value or reason != member.reason
        if done.rowcount and is_news:
            self._note(connection, member.set_name, member.name, kind, reason)
        return bool(done.rowcount)

    def _note(self, connection: Connection, set_name: str, member: str, kind: str, reason: str) -> None:
        connection.execute(
            insert(events).values(at=self._store.now(), set_name=set_name, member=member, kind=kind, reason=reason)
        )
