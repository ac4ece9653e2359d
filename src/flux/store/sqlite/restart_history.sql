-- Let a history begin with its next event.
UPDATE executions
SET first_seq = ?
WHERE number = ?;
