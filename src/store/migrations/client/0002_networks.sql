-- Which way last carried the link, per network: a hint, so that where UDP is blocked nothing is waited for.
CREATE TABLE networks (
    key     TEXT PRIMARY KEY NOT NULL,
    path    TEXT NOT NULL CHECK (path IN ('udp', 'websocket')),
    used_at INTEGER NOT NULL
) STRICT;

CREATE INDEX networks_used ON networks (used_at);
