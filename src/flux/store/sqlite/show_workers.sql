-- Show the workers, with what they serve and how much they run.
SELECT
    worker,
    process,
    started_at,
    lease_expires_at,
    labels,
    (
        SELECT json_group_array(workflow)
        FROM (SELECT workflow FROM served WHERE served.worker = workers.worker ORDER BY workflow)
    ) AS workflows,
    (SELECT count(*) FROM executions WHERE executions.worker = workers.worker AND state = 'RUNNING') AS running
FROM workers
ORDER BY started_at IS NULL, started_at, worker;
