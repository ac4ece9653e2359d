-- Make a parked execution due now, and its parked ancestors, whose owner drives it.
--
-- One that runs has an owner, who will see the message.
WITH RECURSIVE woken (number) AS (
    SELECT :number
    UNION
    SELECT executions.parent
    FROM woken
    INNER JOIN executions ON executions.number = woken.number
    WHERE executions.parent IS NOT NULL AND executions.finished_at IS NULL
)
UPDATE executions
SET state = 'SCHEDULED', wake_at = NULL
WHERE
    number IN (SELECT number FROM woken)
    AND state IN ('PAUSED', 'SCHEDULED');
