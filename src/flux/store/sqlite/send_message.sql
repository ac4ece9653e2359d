-- Put a request from outside where the owner, present or next, will find it.
INSERT INTO inbox (execution, client_id, kind, call_id, name, data, sent_at, checksum)
VALUES (:execution, :client_id, :kind, :call_id, :name, :data, :now, :checksum);
