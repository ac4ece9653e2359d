-- Take an execution that is due and that this version can run.
--
-- The fence counts claims.  Every append names the fence it was claimed with, so a worker that was taken for dead
-- cannot write after its successor.
UPDATE executions
SET
    state = 'RUNNING',
    worker = :worker,
    fence = fence + 1,
    wake_at = NULL,
    blocked_reason = NULL,
    blocked_version = NULL,
    started_at = coalesce(started_at, :now)
WHERE
    number = :number
    AND state = 'SCHEDULED'
    AND (wake_at IS NULL OR wake_at <= :now)
    AND (blocked_reason IS NULL OR blocked_version <> :version)
RETURNING
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
    (SELECT parents.execution_id FROM executions AS parents WHERE parents.number = executions.parent) AS parent_id;
