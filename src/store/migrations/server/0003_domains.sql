-- Own domains that shall lead to a tunnel: a row for each tunnel that asks for one. They go with their
-- tunnel's end.

CREATE TABLE domains (
    domain        TEXT NOT NULL,
    tunnel_id     TEXT NOT NULL REFERENCES tunnels (id) ON DELETE CASCADE,
    claimed_at    INTEGER NOT NULL,
    proven_at     INTEGER,
    lost_at       INTEGER,
    missing_since INTEGER,
    PRIMARY KEY (domain, tunnel_id),
    CHECK (proven_at IS NULL OR lost_at IS NULL)
) STRICT, WITHOUT ROWID;

-- A domain leads to one tunnel.
CREATE UNIQUE INDEX domains_owner ON domains (domain) WHERE proven_at IS NOT NULL;
CREATE INDEX domains_tunnel ON domains (tunnel_id);
