-- Count the executions in each state.
SELECT state, count(*)
FROM executions
GROUP BY state;
