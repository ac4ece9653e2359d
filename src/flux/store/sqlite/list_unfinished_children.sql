-- List the children of an execution that can still be sent something.
SELECT number
FROM executions
WHERE parent = ? AND finished_at IS NULL
ORDER BY number;
