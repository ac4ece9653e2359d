-- Find when the next execution of these workflows is due, of those that wait for a time.
SELECT min(wake_at)
FROM executions
WHERE state = 'SCHEDULED' AND wake_at IS NOT NULL AND workflow IN (SELECT value FROM json_each(:workflows));
