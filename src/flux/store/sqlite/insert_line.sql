-- Keep what a task printed.
INSERT INTO lines (execution, call_id, task, stream, text, time_us)
SELECT number, :call_id, :task, :stream, :text, :time_us
FROM executions
WHERE execution_id = :execution_id;
