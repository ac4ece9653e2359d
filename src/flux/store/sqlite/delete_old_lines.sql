-- Forget the oldest lines of an execution, beyond so many.
DELETE FROM lines
WHERE id IN (
    SELECT id
    FROM lines
    WHERE execution = (SELECT number FROM executions WHERE execution_id = :execution_id)
    ORDER BY id DESC
    LIMIT -1 OFFSET :most
);
