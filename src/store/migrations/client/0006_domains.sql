-- Domains of one's own that shall lead to each tunnel, a JSON list.
ALTER TABLE tunnels ADD COLUMN domains TEXT NOT NULL DEFAULT '[]';
