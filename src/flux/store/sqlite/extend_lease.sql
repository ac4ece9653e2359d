-- Extend a worker's lease; a worker that was rescued has no row, and learns of it here.
UPDATE workers
SET lease_expires_at = :lease_expires_at
WHERE worker = :worker;
