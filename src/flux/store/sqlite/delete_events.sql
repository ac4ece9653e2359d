-- Forget the events before a history's new beginning.
DELETE FROM events
WHERE execution = ? AND seq < ?;
