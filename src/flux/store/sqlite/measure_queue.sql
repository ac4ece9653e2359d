-- Measure the queue: since when the execution waits that has been due longest, how many are blocked, how many workers
-- there are.
--
-- What has no time is due since its last event, or since what its inbox holds came; of those the first thousand count.
SELECT
    (
        SELECT min(due_at)
        FROM (
            SELECT min(wake_at) AS due_at
            FROM executions
            WHERE state = 'SCHEDULED' AND wake_at <= :now AND blocked_reason IS NULL
            UNION ALL
            SELECT
                min(
                    max(
                        created_at,
                        coalesce(
                            (SELECT time_us FROM events WHERE execution = due.number AND seq = due.last_seq), 0
                        ),
                        coalesce(
                            (SELECT min(sent_at) FROM inbox WHERE execution = due.number AND data IS NOT NULL), 0
                        )
                    )
                )
            FROM (
                SELECT number, created_at, last_seq
                FROM executions
                WHERE state = 'SCHEDULED' AND wake_at IS NULL AND blocked_reason IS NULL
                ORDER BY number
                LIMIT 1000
            ) AS due
        )
    ),
    (SELECT count(*) FROM executions WHERE state = 'SCHEDULED' AND blocked_reason IS NOT NULL),
    (SELECT count(*) FROM workers);
