"""What makes a store of an older version one of the next: schema version -> statements, in portable SQL."""

from __future__ import annotations

MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE members ADD COLUMN parked VARCHAR(16)",
        "ALTER TABLE sets ADD COLUMN pool_level VARCHAR(16) DEFAULT 'never filled' NOT NULL",
        "ALTER TABLE sets ADD COLUMN pool_degraded BOOLEAN DEFAULT FALSE NOT NULL",
    ),
    2: (
        "ALTER TABLE members ADD COLUMN restarts INTEGER DEFAULT 0 NOT NULL",
        "ALTER TABLE members ADD COLUMN unhealthy_since FLOAT",
        "ALTER TABLE sets ADD COLUMN rollout_level VARCHAR(16) DEFAULT 'none' NOT NULL",
        "ALTER TABLE sets ADD COLUMN rollout_model VARCHAR(16) DEFAULT '' NOT NULL",
        "ALTER TABLE members ADD COLUMN told VARCHAR(16)",
        "ALTER TABLE members ADD COLUMN entered BOOLEAN DEFAULT FALSE NOT NULL",
        # Who is in the set has been in service: on_claim is for those that come.
        "UPDATE members SET entered = TRUE "
        "WHERE role = 'instance' AND phase NOT IN ('creating', 'provisioning', 'failed')",
        "ALTER TABLE members ADD COLUMN storage_since INTEGER DEFAULT 1 NOT NULL",
        "CREATE TABLE drives ("
        "set_name VARCHAR(30) NOT NULL, name VARCHAR(20) NOT NULL, slot INTEGER NOT NULL, "
        "host VARCHAR(32) NOT NULL, size BIGINT NOT NULL, member VARCHAR(64), is_made BOOLEAN NOT NULL, "
        "is_deleting BOOLEAN NOT NULL, failures INTEGER NOT NULL, created_at FLOAT NOT NULL, "
        "PRIMARY KEY (set_name, name, slot), CONSTRAINT one_drive_of_a_name_per_member UNIQUE (member, name))",
    ),
    3: (
        "CREATE TABLE departed (name VARCHAR(64) NOT NULL, at FLOAT NOT NULL, PRIMARY KEY (name))",
        # Who was let go before this table was there, as far as it is remembered.
        "INSERT INTO departed (name, at) "
        "SELECT member, MAX(at) FROM events WHERE kind = 'deleted' GROUP BY member",
    ),
    4: (
        "ALTER TABLE sets ADD COLUMN file TEXT DEFAULT '' NOT NULL",
        "ALTER TABLE members ADD COLUMN last_failure TEXT DEFAULT '' NOT NULL",
        # Of who has failed and is not tried again yet, the reason is the failure's.
        "UPDATE members SET last_failure = SUBSTR(reason, 1, 2000) WHERE phase = 'failed'",
        "ALTER TABLE members ADD COLUMN served BOOLEAN DEFAULT FALSE NOT NULL",
        # Who gets a new body just now has served before, unless it is the first one.
        "UPDATE members SET served = TRUE WHERE role = 'instance' AND (entered = TRUE OR incarnation > 1)",
        "ALTER TABLE members ADD COLUMN memory BIGINT DEFAULT 0 NOT NULL",
    ),
}
