-- Make a parked execution due now.  One that runs has an owner, who will see the message.
UPDATE executions
SET state = 'SCHEDULED', wake_at = NULL
WHERE number = ? AND state IN ('PAUSED', 'SCHEDULED');
