-- List the messages that are not in the history yet, in the order in which they were sent.
--
-- Texts as bytes: what damage made of them may be no text.
SELECT
    inbox.id,
    CAST(inbox.kind AS BLOB),
    CAST(inbox.call_id AS BLOB),
    CAST(inbox.name AS BLOB),
    inbox.data,
    inbox.sent_at,
    inbox.checksum,
    inbox.execution
FROM executions
INNER JOIN inbox ON inbox.execution = executions.number
WHERE executions.execution_id = ? AND inbox.data IS NOT NULL
ORDER BY inbox.id;
