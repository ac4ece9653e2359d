-- Say whether anything can still happen to an execution.
SELECT 1
FROM executions
WHERE number = ? AND finished_at IS NULL;
