-- Give back everything that a worker owns.  The fence stays: the next claim counts on.
UPDATE executions INDEXED BY executions_owned
SET state = 'SCHEDULED', worker = NULL
WHERE worker = ? AND state = 'RUNNING';
