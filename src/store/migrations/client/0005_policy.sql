-- What each tunnel lets through, as the JSON text of its policy.

ALTER TABLE tunnels ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
