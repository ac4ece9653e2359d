-- Find the newest executions like this, a page of them.
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
WHERE
    (:workflow IS NULL OR workflow = :workflow)
    AND (:state IS NULL OR state = :state)
    AND (:is_blocked IS NULL OR (blocked_reason IS NOT NULL) = :is_blocked)
    AND (:id_prefix = '' OR substr(execution_id, 1, length(:id_prefix)) = :id_prefix)
    AND (:parent_id IS NULL OR parent = (SELECT number FROM executions WHERE execution_id = :parent_id))
    AND (:created_from IS NULL OR created_at >= :created_from)
    AND (:created_to IS NULL OR created_at < :created_to)
    AND (:before IS NULL OR number < :before)
    AND NOT EXISTS (  -- An attribute that is asked for, and that it has not.
        SELECT 1
        FROM json_each(:attributes) AS wanted
        WHERE NOT EXISTS (
            SELECT 1
            FROM attributes
            WHERE execution = executions.number AND name = wanted.key AND value = wanted.value
        )
    )
ORDER BY number DESC
LIMIT :limit;
