-- Let claims take a blocked execution again.
UPDATE executions
SET blocked_reason = NULL, blocked_version = NULL, takeovers = 0
WHERE execution_id = ? AND blocked_reason IS NOT NULL;
