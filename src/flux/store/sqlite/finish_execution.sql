-- Compare, then finish an execution; nothing matches the row after that.
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
    AND state = 'RUNNING';
