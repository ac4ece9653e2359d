-- Forget a worker.
DELETE FROM workers
WHERE worker = ?;
