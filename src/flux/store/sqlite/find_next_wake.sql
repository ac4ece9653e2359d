-- Find when the next execution of these workflows is due, of those that wait for a time and may be claimed then.
--
-- Each workflow gives the first of its part of the index, so it costs the same however many wait.
SELECT min(wake_at)
FROM (
    SELECT (
        SELECT wake_at
        FROM executions INDEXED BY executions_due
        WHERE state = 'SCHEDULED' AND workflow = served.key AND wake_at > 0
            AND (blocked_reason IS NULL OR blocked_version <> served.value)
        ORDER BY wake_at
        LIMIT 1
    ) AS wake_at
    FROM json_each(:workflows) AS served
);
