-- Count a worker's death against what it owned, anew for each execution that got further since its last takeover.
--
-- One that only waits for a child that ran beside it is not to blame.
UPDATE executions
SET
    takeovers = CASE WHEN taken_over_seq = last_seq THEN takeovers + 1 ELSE 1 END,
    taken_over_seq = last_seq
WHERE
    worker = ?
    AND state = 'RUNNING'
    AND NOT EXISTS (
        SELECT 1
        FROM executions AS children
        WHERE children.parent = executions.number AND children.state = 'RUNNING'
    );
