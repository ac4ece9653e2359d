-- Give back everything that a worker owns.  The fence stays: the next claim counts on.
UPDATE executions
SET state = 'SCHEDULED', worker = NULL
WHERE worker = ? AND state = 'RUNNING';
