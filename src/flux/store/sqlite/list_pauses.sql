-- List the pauses that wait for a resume, oldest first; a finished execution waits for none.
SELECT pauses.call_id, pauses.name
FROM executions
INNER JOIN pauses ON pauses.execution = executions.number
WHERE executions.execution_id = ? AND executions.finished_at IS NULL AND pauses.resumed_at IS NULL
ORDER BY pauses.id;
