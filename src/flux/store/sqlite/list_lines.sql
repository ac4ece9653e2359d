-- List what the tasks of an execution printed.
SELECT lines.id, executions.execution_id, call_id, task, stream, text, time_us
FROM lines
INNER JOIN executions ON executions.number = lines.execution
WHERE executions.execution_id = :execution_id AND lines.id > :after
ORDER BY lines.id
LIMIT :limit;
