-- Remove a secret.
DELETE FROM secrets
WHERE name = ?;
