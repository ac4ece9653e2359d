-- Add one event to a history; the execution's row has been compared and advanced before.
INSERT INTO events (execution, seq, fence, type, call_id, name, data, detail_data, time_us, checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);
