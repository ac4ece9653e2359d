-- Forget a pause that is over.
DELETE FROM pauses
WHERE execution = ? AND call_id = ?;
