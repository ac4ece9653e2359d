-- Compare, then park an execution that waits for a timer or for someone outside.
--
-- It must not fall asleep over a message: whoever sends one later finds it parked and wakes it, in one transaction.
-- Nor while a child is awake, which it runs: whoever wakes the child later wakes it as well.
-- A blocked one may: nobody could read the message, and the next claim will.
UPDATE executions
SET
    state = :state,
    worker = NULL,
    last_seq = :last_seq,
    wake_at = :wake_at,
    blocked_reason = :blocked_reason,
    blocked_version = :blocked_version
WHERE
    number = :number
    AND +execution_id = :execution_id
    AND fence = :fence
    AND last_seq = :expected_seq
    AND state = 'RUNNING'
    AND (
        :blocked_reason IS NOT NULL
        OR NOT EXISTS (
            SELECT 1
            FROM inbox
            WHERE
                execution = :number
                AND data IS NOT NULL
                AND id NOT IN (SELECT value FROM json_each(:consumed))
        )
    )
    AND (
        :blocked_reason IS NOT NULL
        OR NOT EXISTS (
            SELECT 1
            FROM executions AS children
            WHERE
                children.parent = :number
                AND children.state IN ('SCHEDULED', 'RUNNING')
                AND children.blocked_reason IS NULL
        )
    );
