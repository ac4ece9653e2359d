-- Forget what a worker served.
DELETE FROM served WHERE worker = ?;
