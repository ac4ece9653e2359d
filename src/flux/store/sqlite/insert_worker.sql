-- Make a worker known.
INSERT INTO workers (worker, lease_expires_at) VALUES (:worker, :lease_expires_at);
