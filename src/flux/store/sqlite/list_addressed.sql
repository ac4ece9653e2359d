-- List the executions of a worker that have something in their inbox, and the children of its executions that nobody
-- runs: whoever runs the parent runs them.
SELECT executions.execution_id
FROM executions
WHERE
    executions.worker = :worker
    AND executions.state = 'RUNNING'
    AND EXISTS (SELECT 1 FROM inbox WHERE inbox.execution = executions.number AND inbox.data IS NOT NULL)
UNION ALL
SELECT children.execution_id
FROM executions
INNER JOIN executions AS children ON children.parent = executions.number
WHERE
    executions.worker = :worker
    AND executions.state = 'RUNNING'
    AND children.state = 'SCHEDULED'
    AND children.wake_at IS NULL
    AND children.blocked_reason IS NULL;
