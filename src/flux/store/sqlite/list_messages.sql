-- List the messages that are not in the history yet, in the order in which they were sent.
SELECT inbox.id, inbox.kind, inbox.call_id, inbox.name, inbox.data, inbox.sent_at
FROM executions
INNER JOIN inbox ON inbox.execution = executions.number
WHERE executions.execution_id = ? AND inbox.data IS NOT NULL
ORDER BY inbox.id;
