-- Find an execution only if it was created by exactly this request: then the answer to a commit was lost.
SELECT number
FROM executions
WHERE
    execution_id = :execution_id
    AND namespace = :namespace
    AND workflow = :workflow
    AND version = :version
    AND location = :location
    AND start_digest = :start_digest
    AND created_at = :created_at
    AND created_by IS :created_by;
