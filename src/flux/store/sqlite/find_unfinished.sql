-- Find an execution that can still be sent something.
SELECT number
FROM executions
WHERE execution_id = ? AND finished_at IS NULL;
