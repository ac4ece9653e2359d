-- Find the pause that a client's earlier resume was bound to, consumed or not.
SELECT inbox.call_id, inbox.name
FROM executions
INNER JOIN inbox ON inbox.execution = executions.number
WHERE executions.execution_id = ? AND inbox.client_id = ? AND inbox.kind = 'resume';
