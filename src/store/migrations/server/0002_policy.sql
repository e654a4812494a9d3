-- What a tunnel lets through, as the JSON text of its policy; share links; what the operator suspended.

ALTER TABLE users ADD COLUMN suspended_at INTEGER;
ALTER TABLE devices ADD COLUMN suspended_at INTEGER;
ALTER TABLE tunnels ADD COLUMN suspended_at INTEGER;
ALTER TABLE tunnels ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tunnels ADD COLUMN policy_version INTEGER NOT NULL DEFAULT 0;

-- A public port has one owner, as a name has.
CREATE UNIQUE INDEX tunnels_open_port ON tunnels (kind, public_port)
    WHERE state = 'open' AND public_port IS NOT NULL;

-- uses_left: NULL is any number.
CREATE TABLE shares (
    id         TEXT PRIMARY KEY NOT NULL,
    tunnel_id  TEXT NOT NULL REFERENCES tunnels (id) ON DELETE CASCADE,
    device_id  TEXT NOT NULL REFERENCES devices (id),
    methods    TEXT NOT NULL,
    paths      TEXT NOT NULL,
    uses_left  INTEGER CHECK (uses_left >= 0),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE INDEX shares_tunnel ON shares (tunnel_id);
CREATE INDEX shares_expiry ON shares (expires_at);
