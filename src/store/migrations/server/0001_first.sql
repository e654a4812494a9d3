-- Times are unix milliseconds, durations milliseconds, ids prefixed text, keys and hashes hex.

CREATE TABLE users (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX users_name ON users (name);

CREATE TABLE devices (
    id         TEXT PRIMARY KEY NOT NULL,
    user_id    TEXT NOT NULL REFERENCES users (id),
    pin        TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

-- A key that was revoked may enrol again, as another device.
CREATE UNIQUE INDEX devices_pin ON devices (pin) WHERE revoked_at IS NULL;
CREATE INDEX devices_user ON devices (user_id);

CREATE TABLE invites (
    id          TEXT PRIMARY KEY NOT NULL,
    user_id     TEXT NOT NULL REFERENCES users (id),
    secret_hash TEXT NOT NULL,
    uses_left   INTEGER NOT NULL CHECK (uses_left >= 0),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    revoked_at  INTEGER
) STRICT;

CREATE UNIQUE INDEX invites_secret ON invites (secret_hash);
CREATE INDEX invites_expiry ON invites (expires_at);

-- Closed and expired tunnels stay, for the audit.
CREATE TABLE tunnels (
    id            TEXT PRIMARY KEY NOT NULL,
    slug          TEXT NOT NULL,
    device_id     TEXT NOT NULL REFERENCES devices (id),
    user_id       TEXT NOT NULL REFERENCES users (id),
    kind          TEXT NOT NULL CHECK (kind IN ('http', 'tcp', 'tls', 'udp')),
    state         TEXT NOT NULL CHECK (state IN ('open', 'closed', 'expired')),
    expires_at    INTEGER,
    idle_ms       INTEGER,
    hold_ms       INTEGER NOT NULL,
    declared      INTEGER NOT NULL CHECK (declared IN (0, 1)),
    labels        TEXT NOT NULL,
    public_port   INTEGER CHECK (public_port BETWEEN 0 AND 65535),
    created_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    last_seen_at  INTEGER,
    idle_spent_ms INTEGER NOT NULL,
    away_since    INTEGER
) STRICT;

CREATE UNIQUE INDEX tunnels_open_slug ON tunnels (slug) WHERE state = 'open';
CREATE INDEX tunnels_device ON tunnels (device_id);
CREATE INDEX tunnels_user ON tunnels (user_id);
CREATE INDEX tunnels_ended ON tunnels (ended_at) WHERE state <> 'open';

-- AUTOINCREMENT: a number is never given twice, so that a cursor stays true.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    peer    TEXT,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
