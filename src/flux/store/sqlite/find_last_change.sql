-- Find the number of the last change.
SELECT coalesce(max(changed), 0) FROM executions;
