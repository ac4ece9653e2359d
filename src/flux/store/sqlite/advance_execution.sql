-- Compare, then advance an execution whose owner goes on: the hot path.
--
-- The number is from a cache; comparing the id as well makes a wrong one harmless.  The plus keeps its index out.
UPDATE executions
SET last_seq = ?
WHERE number = ? AND +execution_id = ? AND fence = ? AND last_seq = ? AND state = 'RUNNING';
