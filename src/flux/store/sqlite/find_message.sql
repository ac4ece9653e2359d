-- Find a message that a client has sent before.
SELECT id
FROM inbox
WHERE execution = ? AND client_id = ?;
