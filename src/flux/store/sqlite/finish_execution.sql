-- Compare, then finish an execution; nothing matches the row after that.
--
-- What was accepted before its end is in its history: it does not finish over a message.
UPDATE executions
SET
    state = :state,
    worker = NULL,
    last_seq = :last_seq,
    finished_at = :finished_at
WHERE
    number = :number
    AND +execution_id = :execution_id
    AND fence = :fence
    AND last_seq = :expected_seq
    AND state = 'RUNNING'
    AND NOT EXISTS (
        SELECT 1
        FROM inbox
        WHERE
            execution = :number
            AND data IS NOT NULL
            AND id NOT IN (SELECT value FROM json_each(:consumed))
    )
RETURNING parent, parent_call;
