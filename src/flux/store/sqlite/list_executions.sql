-- List the newest executions, for people.
--
-- No index serves the filters: walking back from the newest finds a page soon, and an index would cost each append.
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
WHERE (:workflow IS NULL OR workflow = :workflow) AND (:state IS NULL OR state = :state)
ORDER BY number DESC
LIMIT :limit;
