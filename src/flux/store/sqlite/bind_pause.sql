-- Bind a resume to the oldest open pause.  Bound once, it is no longer open: a second click cannot answer the next.
UPDATE pauses
SET resumed_at = :now
WHERE id = (
    SELECT pauses.id
    FROM executions
    INNER JOIN pauses ON pauses.execution = executions.number
    WHERE
        executions.execution_id = :execution_id
        AND executions.finished_at IS NULL
        AND pauses.resumed_at IS NULL
        AND (:name IS NULL OR pauses.name = :name)
    ORDER BY pauses.id
    LIMIT 1
)
RETURNING execution, call_id, name;
