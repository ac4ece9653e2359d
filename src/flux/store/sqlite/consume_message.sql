-- Take a message out of the inbox: its bytes are in the history now.
UPDATE inbox
SET data = NULL
WHERE execution = ? AND id = ?;
