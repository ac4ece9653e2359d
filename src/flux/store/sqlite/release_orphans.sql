-- Give back what is owned by nobody: a worker that was rescued can still claim before it notices.
UPDATE executions INDEXED BY executions_owned
SET state = 'SCHEDULED', worker = NULL
WHERE state = 'RUNNING' AND worker NOT IN (SELECT worker FROM workers);
