-- List the attributes of these executions.
SELECT executions.execution_id, attributes.name, attributes.value
FROM json_each(:execution_ids) AS wanted
CROSS JOIN executions ON executions.execution_id = wanted.value
CROSS JOIN attributes ON attributes.execution = executions.number
ORDER BY executions.number, attributes.name;
