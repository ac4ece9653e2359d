-- Take an execution that is due and that this version can run.
--
-- The fence counts claims.  Every append names the fence it was claimed with, so a worker that was taken for dead
-- cannot write after its successor.  Of those that were taken over from several dead owners, a worker runs one at a
-- time until it has got further: so the poison among them is found, and nothing that ran beside it is blamed.
UPDATE executions
SET
    state = 'RUNNING',
    worker = :worker,
    fence = fence + 1,
    wake_at = NULL,
    claimed_version = :version,
    takeovers = CASE WHEN blocked_reason IS NULL THEN takeovers ELSE 0 END,
    blocked_reason = NULL,
    blocked_version = NULL,
    started_at = coalesce(started_at, :now)
WHERE
    number = :number
    AND state = 'SCHEDULED'
    AND (wake_at IS NULL OR wake_at <= :now)
    AND (blocked_reason IS NULL OR blocked_version <> :version)
    AND (
        takeovers < :suspect
        OR taken_over_seq < last_seq
        OR parent IS NOT NULL  -- Its parent waits for it.
        OR NOT EXISTS (
            SELECT 1
            FROM executions AS others
            WHERE
                others.worker = :worker
                AND others.state = 'RUNNING'
                AND others.parent IS NULL
                AND others.takeovers >= :suspect
                AND others.taken_over_seq = others.last_seq
        )
    )
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
    forked_from,
    (SELECT parents.execution_id FROM executions AS parents WHERE parents.number = executions.parent) AS parent_id;
