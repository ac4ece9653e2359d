-- Put an execution aside whose history cannot be read, so that it does not stop the claims of its neighbours.
--
-- It was claimed a moment ago, in this same transaction.  No version can run it until a person unblocks it.
UPDATE executions
SET state = 'SCHEDULED', worker = NULL, blocked_reason = :reason
WHERE number = :number AND state = 'RUNNING';
