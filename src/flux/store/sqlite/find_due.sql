-- Find the executions of these workflows that have been due longest.
--
-- Each workflow gives up to the limit from two ends of the index, so a long backlog costs no more than a short one.
SELECT due.number, served.value AS version
FROM json_each(:workflows) AS served
CROSS JOIN executions AS due
WHERE due.number IN (
    SELECT number
    FROM (
        SELECT number
        FROM executions INDEXED BY executions_due
        WHERE state = 'SCHEDULED' AND workflow = served.key AND wake_at IS NULL
            AND (blocked_reason IS NULL OR blocked_version <> served.value)
        ORDER BY number
        LIMIT :limit
    )
    UNION ALL
    SELECT number
    FROM (
        SELECT number
        FROM executions INDEXED BY executions_due
        WHERE state = 'SCHEDULED' AND workflow = served.key AND wake_at <= :now
            AND (blocked_reason IS NULL OR blocked_version <> served.value)
        ORDER BY wake_at, number
        LIMIT :limit
    )
)
ORDER BY coalesce(due.wake_at, due.created_at), due.number
LIMIT :limit;
