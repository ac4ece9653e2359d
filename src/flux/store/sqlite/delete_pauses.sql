-- Forget every pause of a history that begins anew.
DELETE FROM pauses
WHERE execution = ?;
