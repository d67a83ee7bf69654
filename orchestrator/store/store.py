"""What the service writes as wishes and everyone reads. What the controller records is in `records`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from orchestrator.errors import Conflict, NotFound, StoreError
from orchestrator.models.changes import describe_changes
from orchestrator.models.events import Event
from orchestrator.models.golden import GoldenTroubles
from orchestrator.models.members import Image, Member, Phase, Request, ScaleSet, lost_image
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.storage import Drive
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.store.change_watch import Version
from orchestrator.store.changes import NO_FAILURES
from orchestrator.store.database import Database
from orchestrator.store.drives import grow_drives, list_drives
from orchestrator.store.golden import end_golden_troubles, list_golden_troubles
from orchestrator.store.image_versions import give_version, list_given, remember_version
from orchestrator.store.rows import (
    MemberReader,
    image_key,
    read_event,
    read_image,
    read_member,
    read_set,
    read_spec,
)
from orchestrator.store.tables import departed, events, facts, images, leases, members, sets

HOLD = "hold"  # the fact that says why nothing may be done


@dataclass(frozen=True)
class Snapshot:
    """Everything recorded, read in one transaction."""

    sets: tuple[ScaleSet, ...]
    members: tuple[Member, ...]
    drives: tuple[Drive, ...] = ()
    hold: str = ""  # why nothing may be done before `adopt`
    golden_troubles: GoldenTroubles = field(default_factory=dict)


class Store:
    """Wishes, images, events and facts. Every call is one transaction and raises StoreError when it fails."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self.database = database
        self.now = now
        self._members = MemberReader()
        self._last: tuple[Version | None, Snapshot] | None = None

    # ---- reading -----------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """As it is now. While nobody writes it is the same value, and nothing is read."""
        # Asked before it is read: what is written in between is read now, and once more.
        version = self.database.version()
        last = self._last
        if version is None or last is None or last[0] != version:
            last = self._last = version, self._read_snapshot()
        return last[1]

    def _read_snapshot(self) -> Snapshot:
        with self.database.read() as connection:
            known = {(row.name, row.version): read_image(row) for row in connection.execute(select(images))}
            drives = list_drives(connection)
            held: dict[str | None, tuple[Drive, ...]] = {}
            for drive in drives:
                held[drive.member] = (*held.get(drive.member, ()), drive)
            return Snapshot(
                tuple(
                    read_set(row, known.get(image_key(row)) or lost_image(*image_key(row)))
                    for row in connection.execute(select(sets).order_by(sets.c.name))
                ),
                self._members.read(connection.execute(select(members).order_by(members.c.name)).all(), held),
                drives,
                self._hold(connection),
                list_golden_troubles(connection),
            )

    def _hold(self, connection: Connection) -> str:
        row = connection.execute(select(facts.c.value).where(facts.c.key == HOLD)).first()
        return str(json.loads(row.value)) if row else ""

    def find_departed(self, names: Iterable[str]) -> frozenset[str]:
        """Which of these members were let go, as far back as that is remembered."""
        with self.database.read() as connection:
            query = select(departed.c.name).where(departed.c.name.in_(list(names)))
            return frozenset(row.name for row in connection.execute(query))

    def find_set(self, name: str) -> ScaleSet | None:
        return next((one for one in self.snapshot().sets if one.name == name), None)

    def get_member(self, set_name: str, name: str) -> Member:
        """Raises NotFound. `name` may leave out the set's part: `4tz9k` for `web-4tz9k`."""
        with self.database.read() as connection:
            rows = connection.execute(select(members).where(members.c.set_name == set_name)).all()
        for row in rows:
            if row.name in (name, f"{set_name}-{name}"):
                return read_member(row)
        known = ", ".join(sorted(row.name for row in rows)) or "none"
        raise NotFound(f"set {set_name!r} has no member {name!r}", f"members: {known}")

    def list_events(self, set_name: str | None, after: int = 0, limit: int = 1000) -> list[Event]:
        """The last `limit` events after that id, oldest first."""
        query = select(events).where(events.c.id > after).order_by(events.c.id.desc()).limit(limit)
        if set_name is not None:
            query = query.where(events.c.set_name == set_name)
        with self.database.read() as connection:
            return [read_event(row) for row in connection.execute(query)][::-1]

    def list_departed(self) -> frozenset[str]:
        """All members that were let go, as far back as that is remembered: what bears their names was ours."""
        with self.database.read() as connection:
            return frozenset(connection.execute(select(departed.c.name)).scalars())

    # ---- images ------------------------------------------------------------------------------------------

    def list_images(self) -> list[Image]:
        with self.database.read() as connection:
            query = select(images).order_by(images.c.name, images.c.version)
            return [read_image(row) for row in connection.execute(query)]

    def find_image(self, ref: str) -> Image | None:
        """`name` (its newest version) or `name:version`."""
        name, _, version = ref.partition(":")
        found = [
            image
            for image in self.list_images()
            if image.name == name and (not version or image.version == int(version))
        ]
        return found[-1] if found else None

    def add_image(self, name: str, made: Callable[[int], Image], given: int = 0) -> Image:
        """Record a new version; `made` gets its number, which no version of that name ever had.

        `given`: the highest that is known beside the store, which may have been lost, or be an older one.
        """
        with self.database.write() as connection:
            image = made(give_version(connection, name, given))
            connection.execute(insert(images).values(**vars(image)))
            return image

    def given_versions(self) -> dict[str, int]:
        """Image's name -> the highest version number that was ever given."""
        with self.database.read() as connection:
            return list_given(connection)

    def image_users(self, image: Image) -> list[str]:
        """Names of the sets and members for which it may not be removed, sorted."""
        with self.database.read() as connection:
            return _users(connection, image)

    def remove_image(self, image: Image) -> None:
        """Raises Conflict naming who uses it."""
        with self.database.write() as connection:
            users = _users(connection, image)
            if users:
                raise Conflict(
                    f"image {image.ref!r} is in use by {', '.join(users)}",
                    "delete or update what uses it first",
                )
            remember_version(connection, image.name, image.version)
            key = (images.c.name == image.name) & (images.c.version == image.version)
            connection.execute(delete(images).where(key))

    # ---- wishes ------------------------------------------------------------------------------------------

    def declare_set(self, spec: ScaleSetSpec, image: Image, model: str) -> bool:
        """Write the wish; False if it was exactly this already.

        Raises Conflict while the set is being deleted, and if the image was removed meanwhile.
        """
        with self.database.write() as connection:
            return self._declare(connection, spec, image, model)

    def declare_sets(self, wishes: Sequence[tuple[ScaleSetSpec, Image, str]], file: str = "") -> list[bool]:
        """Write the wishes of one file (spec, image, model digest), all or none; False for each that was exactly
        this already, which is a wish to look again. From now on `file` declares these sets and no others, unless
        it is empty. Raises Conflict while one of the sets is being deleted."""
        changed = []
        with self.database.write() as connection:
            for spec, image, model in wishes:
                changed.append(self._declare(connection, spec, image, model))
                if not changed[-1]:
                    self._touch(connection, spec.name)
            if file:
                self._declared_by(connection, file, [spec.name for spec, _, _ in wishes])
        return changed

    def _declared_by(self, connection: Connection, file: str, names: list[str]) -> None:
        # A generation more, for the copies beside the store: what they say too changes with it only.
        left = (sets.c.file == file) & sets.c.name.not_in(names)
        fewer = {"file": "", "generation": sets.c.generation + 1}
        connection.execute(update(sets).where(left).values(**fewer))
        connection.execute(update(sets).where(sets.c.name.in_(names)).values(file=file))

    def _declare(self, connection: Connection, spec: ScaleSetSpec, image: Image, model: str) -> bool:
        row = connection.execute(select(sets).where(sets.c.name == spec.name)).first()
        values = {
            "spec": spec.to_json(),
            "model": model,
            "image_name": image.name,
            "image_version": image.version,
        }
        # One that the set is declared on already cannot be removed; and a lost one is no reason not to shrink.
        if row is None or image_key(row) != (image.name, image.version):
            _refuse_removed(connection, spec.name, image)
        grow_drives(connection, spec)
        if row is None:
            fresh = {"generation": 1, "settled_generation": 0, "deleting": False, "stuck": ""}
            connection.execute(insert(sets).values(name=spec.name, created_at=self.now(), **fresh, **values))
            self._note(connection, spec.name, "", "set_declared", f"{spec.name} was declared")
            return True
        if row.deleting:
            raise Conflict(f"set {spec.name!r} is being deleted", "wait for the deletion, then apply again")
        if all(getattr(row, key) == value for key, value in values.items()):
            return False
        connection.execute(
            update(sets).where(sets.c.name == spec.name).values(generation=sets.c.generation + 1, **values)
        )
        self._due_at_once(connection, spec.name)
        images_of_both = (f"{row.image_name}:{row.image_version}", image.ref)
        words = describe_changes(read_spec(row.spec), spec, images_of_both)
        self._note(connection, spec.name, "", "settings_changed", f"{spec.name} was changed: {words}")
        return True

    def mark_deleting(self, name: str) -> None:
        """Raises NotFound."""
        with self.database.write() as connection:
            done = connection.execute(
                update(sets).where(sets.c.name == name).values(deleting=True, generation=sets.c.generation + 1)
            )
            if done.rowcount == 0:
                raise NotFound(f"there is no scale set {name!r}", "see 'understudy status'")
            self._note(connection, name, "", "set_deleting", f"{name} is to be deleted")

    def request(self, member: Member, wish: Request, fewer: int = 0) -> None:
        """Ask something of one member, and make its set so many instances smaller with the same write."""
        reason = f"{wish.value} was asked for"
        with self.database.write() as connection:
            connection.execute(
                update(members)
                .where(members.c.name == member.name)
                .values(request=wish.value, reason=reason, unhealthy_since=None, **NO_FAILURES)
            )
            values: dict[str, Any] = {"generation": sets.c.generation + 1}
            if fewer:
                text = connection.execute(select(sets.c.spec).where(sets.c.name == member.set_name)).scalar_one()
                spec = read_spec(text)
                smaller = spec.model_copy(update={"instances": max(spec.instances - fewer, 0)})
                values["spec"] = smaller.to_json()
            connection.execute(update(sets).where(sets.c.name == member.set_name).values(**values))
            self._note(connection, member.set_name, member.name, f"{wish.value}_requested", reason)

    def withdraw(self, member: Member) -> None:
        """What was asked of the member is not wanted any more. Too late for what is answered already."""
        asked = (members.c.name == member.name) & (members.c.request == (member.request or ""))
        with self.database.write() as connection:
            connection.execute(update(members).where(asked).values(request=None))
            connection.execute(
                update(sets).where(sets.c.name == member.set_name).values(generation=sets.c.generation + 1)
            )

    def touch_set(self, name: str) -> None:
        """A wish to look again: failed members are due at once, and so are golden images."""
        with self.database.write() as connection:
            self._touch(connection, name)

    def _touch(self, connection: Connection, name: str) -> None:
        connection.execute(update(sets).where(sets.c.name == name).values(generation=sets.c.generation + 1))
        self._due_at_once(connection, name)
        end_golden_troubles(connection, name)

    def _due_at_once(self, connection: Connection, set_name: str) -> None:
        """Who failed or is held need not sit out a pause, and nobody is given up: the operator has spoken."""
        is_held = (members.c.phase == Phase.STARTING.value) & members.c.unhealthy_since.is_not(None)
        failed = (members.c.set_name == set_name) & ((members.c.phase == Phase.FAILED.value) | is_held)
        connection.execute(update(members).where(failed).values(phase_since=0.0))
        given_up = (members.c.set_name == set_name) & (members.c.failures >= MAX_TRIES)
        connection.execute(update(members).where(given_up).values(**NO_FAILURES))

    # ---- events and facts --------------------------------------------------------------------------------

    def note(self, set_name: str, member: str, kind: str, reason: str) -> None:
        with self.database.write() as connection:
            self._note(connection, set_name, member, kind, reason)

    def _note(self, connection: Connection, set_name: str, member: str, kind: str, reason: str) -> None:
        connection.execute(
            insert(events).values(at=self.now(), set_name=set_name, member=member, kind=kind, reason=reason)
        )

    def read_fact(self, key: str) -> Any:
        """A remembered JSON value, None if there is none."""
        with self.database.read() as connection:
            row = connection.execute(select(facts.c.value).where(facts.c.key == key)).first()
        return json.loads(row.value) if row else None

    def write_fact(self, key: str, value: Any) -> None:
        with self.database.write() as connection:
            connection.execute(delete(facts).where(facts.c.key == key))
            connection.execute(insert(facts).values(key=key, value=json.dumps(value)))

    def installation(self) -> str:
        """A random name of this installation, made once: machines of another one are not ours."""
        found = self.read_fact("installation")
        if found is None:
            with self.database.write() as connection:
                row = connection.execute(select(facts.c.value).where(facts.c.key == "installation")).first()
                if row is not None:
                    return str(json.loads(row.value))
                found = secrets.token_hex(8)
                connection.execute(insert(facts).values(key="installation", value=json.dumps(found)))
        return str(found)

    def begin_anew(self, installation: str, hold: str) -> None:
        """A new store for an installation that is there; nothing is done before it was adopted."""
        with self.database.write() as connection:
            if connection.execute(select(facts.c.key).where(facts.c.key == "installation")).first() is None:
                connection.execute(insert(facts).values(key="installation", value=json.dumps(installation)))
                connection.execute(insert(facts).values(key=HOLD, value=json.dumps(hold)))

    def find_lease_holder(self, name: str) -> tuple[str, float] | None:
        """(holder, expiry in seconds since the epoch)."""
        with self.database.read() as connection:
            row = connection.execute(select(leases).where(leases.c.name == name)).first()
        return (row.holder, row.expires_at) if row else None

    def close(self) -> None:
        self.database.close()


def open_store(url: str, now: Callable[[], float]) -> Store:
    """Open the store at an SQLAlchemy URL, making its tables. Raises StoreError."""
    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///"))
        with _first_one_alone(file):
            return _open(url, now)
    return _open(url, now)


def _open(url: str, now: Callable[[], float]) -> Store:
    database = Database(url)
    database.ensure_schema(now())
    return Store(database, now)


@contextlib.contextmanager
def _first_one_alone(file: Path) -> Iterator[None]:
    """SQLite does not wait when two processes turn the same new file to WAL: they take turns here."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        gate = file.with_suffix(".lock")
        gate.touch(mode=0o600)
        with gate.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file.touch(mode=0o600)
            yield
    except OSError as error:
        raise StoreError(
            f"cannot use the store {file}: {error.strerror}", "check its directory's rights"
        ) from error


def _refuse_removed(connection: Connection, set_name: str, image: Image) -> None:
    """It was looked up in another transaction, and may have been removed since."""
    key = (images.c.name == image.name) & (images.c.version == image.version) & (images.c.digest == image.digest)
    if connection.execute(select(images.c.version).where(key)).first() is None:
        raise Conflict(
            f"set {set_name!r}: image {image.ref!r} was removed meanwhile",
            "see 'understudy image list'; name one of these in the set's file, then apply it",
        )


def _users(connection: Connection, image: Image) -> list[str]:
    """Sets that are declared on it, and members made from it unless another version has the same content."""
    by_set = (sets.c.image_name == image.name) & (sets.c.image_version == image.version)
    users = [row.name for row in connection.execute(select(sets.c.name).where(by_set))]
    twin = (images.c.digest == image.digest) & (
        (images.c.name != image.name) | (images.c.version != image.version)
    )
    if connection.execute(select(images.c.version).where(twin)).first() is None:
        query = select(members.c.name).where(members.c.image_digest == image.digest)
        users += [row.name for row in connection.execute(query)]
    return sorted(users)
