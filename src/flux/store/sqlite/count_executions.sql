-- Count the executions like this in each state.
SELECT state, count(*)
FROM executions
WHERE
    (:workflow IS NULL OR workflow = :workflow)
    AND (:is_blocked IS NULL OR (blocked_reason IS NOT NULL) = :is_blocked)
    AND (:id_prefix = '' OR substr(execution_id, 1, length(:id_prefix)) = :id_prefix)
    AND (:parent_id IS NULL OR parent = (SELECT number FROM executions WHERE execution_id = :parent_id))
    AND (:created_from IS NULL OR created_at >= :created_from)
    AND (:created_to IS NULL OR created_at < :created_to)
    AND NOT EXISTS (
        SELECT 1
        FROM json_each(:attributes) AS wanted
        WHERE NOT EXISTS (
            SELECT 1
            FROM attributes
            WHERE execution = executions.number AND name = wanted.key AND value = wanted.value
        )
    )
GROUP BY state;
