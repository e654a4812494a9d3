-- Times are unix milliseconds, durations milliseconds, ids prefixed text, lists JSON.

-- A device has joined one server or none.
CREATE TABLE enrolment (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    addresses TEXT NOT NULL,
    pins      TEXT NOT NULL,
    device_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    domain    TEXT NOT NULL,
    joined_at INTEGER NOT NULL
) STRICT;

-- idle_never tells "never" from "as the server likes", which is NULL in idle_ms.
CREATE TABLE tunnels (
    id          TEXT PRIMARY KEY NOT NULL,
    name        TEXT,
    slug        TEXT,
    url         TEXT,
    target      TEXT NOT NULL,
    host_mode   TEXT NOT NULL CHECK (host_mode IN ('auto', 'keep', 'rewrite', 'fixed')),
    host_value  TEXT,
    state       TEXT NOT NULL CHECK (state IN ('opening', 'open', 'closing', 'closed', 'expired')),
    expires_at  INTEGER,
    idle_ms     INTEGER,
    idle_never  INTEGER NOT NULL CHECK (idle_never IN (0, 1)),
    hold_ms     INTEGER,
    declared    INTEGER NOT NULL CHECK (declared IN (0, 1)),
    labels      TEXT NOT NULL,
    public_port INTEGER CHECK (public_port BETWEEN 0 AND 65535),
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    CHECK ((host_mode = 'fixed') = (host_value IS NOT NULL)),
    CHECK (idle_never = 0 OR idle_ms IS NULL)
) STRICT;

CREATE INDEX tunnels_ended ON tunnels (ended_at) WHERE state IN ('closed', 'expired');
