-- Record a pause that a resume can be bound to.
INSERT INTO pauses (execution, call_id, name) VALUES (?, ?, ?);
