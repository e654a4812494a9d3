-- Whoever opened the tunnel wants it public, whatever the exposure guard finds. Tunnels from before the
-- guard are looked at like new ones.
ALTER TABLE tunnels ADD COLUMN yes_expose INTEGER NOT NULL DEFAULT 0 CHECK (yes_expose IN (0, 1));
