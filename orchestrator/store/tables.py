"""Tables, in portable SQL: SQLite by default, PostgreSQL by URL. Times are seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, MetaData, String, Table, Text, UniqueConstraint

SCHEMA_VERSION = 5  # a new one needs its entry in `migrations`

metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("value", Text, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("virtual_size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("source", Text, nullable=False),
)

sets = Table(
    "sets",
    metadata,
    Column("name", String(30), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("model", String(16), nullable=False),
    Column("image_name", String(64), nullable=False),
    Column("image_version", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("settled_generation", Integer, nullable=False),
    Column("deleting", Boolean, nullable=False),
    Column("stuck", Text, nullable=False),
    Column("pool_level", String(16), nullable=False, default="never filled"),
    Column("pool_degraded", Boolean, nullable=False, default=False),
    Column("rollout_level", String(16), nullable=False, default="none"),
    Column("rollout_model", String(16), nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("file", Text, nullable=False, default=""),
)

members = Table(
    "members",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("set_name", String(30), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("host", String(32), nullable=False),
    Column("zone", String(32), nullable=False),
    Column("address", String(15), nullable=False),
    Column("mac", String(17), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("model", String(16), nullable=False),
    Column("image_digest", String(64), nullable=False),
    Column("request", String(16), nullable=True),
    Column("reason", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("phase_since", Float, nullable=False),
    Column("parked", String(16), nullable=True),
    Column("restarts", Integer, nullable=False, default=0),
    Column("unhealthy_since", Float, nullable=True),
    Column("told", String(16), nullable=True),
    Column("entered", Boolean, nullable=False, default=False),
    Column("storage_since", Integer, nullable=False, default=1),
    Column("last_failure", Text, nullable=False, default=""),
    Column("served", Boolean, nullable=False, default=False),
    Column("memory", BigInteger, nullable=False, default=0),
    UniqueConstraint("address", name="one_machine_per_address"),
    UniqueConstraint("mac", name="one_machine_per_mac"),
)

drives = Table(
    "drives",
    metadata,
    Column("set_name", String(30), primary_key=True),
    Column("name", String(20), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("host", String(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("member", String(64), nullable=True),
    Column("is_made", Boolean, nullable=False),
    Column("is_deleting", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("member", "name", name="one_drive_of_a_name_per_member"),
)

# Members that were let go: a machine of such a name is a leak. One of which nothing is known is never removed.
departed = Table(
    "departed",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("set_name", String(30), nullable=False, index=True),
    Column("member", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("reason", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("expires_at", Float, nullable=False),
)
