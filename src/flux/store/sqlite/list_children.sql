-- List the child executions of one, newest first.
SELECT
    number,
    execution_id,
    namespace,
    workflow,
    version,
    location,
    start_digest,
    state,
    worker,
    fence,
    last_seq,
    wake_at,
    blocked_reason,
    blocked_version,
    created_at,
    started_at,
    finished_at,
    first_seq,
    parent_call,
    forked_from,
    (SELECT parents.execution_id FROM executions AS parents WHERE parents.number = executions.parent) AS parent_id
FROM executions
WHERE parent = (SELECT number FROM executions WHERE execution_id = :parent_id)
ORDER BY number DESC
LIMIT :limit;
