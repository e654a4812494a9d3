-- The header that tells an origin who visits: 'v1', 'v2', or none.
ALTER TABLE tunnels ADD COLUMN proxy_protocol TEXT CHECK (proxy_protocol IN ('v1', 'v2'));
