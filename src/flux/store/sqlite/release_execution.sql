-- Give an execution back, as long as this owner still has it.
UPDATE executions
SET state = 'SCHEDULED', worker = NULL
WHERE execution_id = ? AND fence = ? AND state = 'RUNNING';
