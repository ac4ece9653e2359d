-- List the executions of a worker that have something in their inbox.
SELECT executions.execution_id
FROM executions
WHERE
    executions.worker = ?
    AND executions.state = 'RUNNING'
    AND EXISTS (SELECT 1 FROM inbox WHERE inbox.execution = executions.number AND inbox.data IS NOT NULL);
