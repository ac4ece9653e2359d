-- Child executions, histories that begin anew, signals and cancels, secrets, and cached results.

ALTER TABLE executions ADD COLUMN first_seq INTEGER NOT NULL DEFAULT 1;
ALTER TABLE executions ADD COLUMN parent INTEGER REFERENCES executions (number);
ALTER TABLE executions ADD COLUMN parent_call TEXT;

CREATE INDEX executions_children ON executions (parent) WHERE parent IS NOT NULL;

ALTER TABLE inbox RENAME TO old_inbox;

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,  -- In the order in which they were sent.
    execution INTEGER NOT NULL REFERENCES executions (number),
    client_id TEXT,
    kind TEXT NOT NULL CHECK (kind IN ('resume', 'signal', 'cancel', 'child')),
    call_id TEXT NOT NULL,
    name TEXT NOT NULL,
    data BLOB,  -- NULL once it is in the history; the row stays, so that a repeat is recognised.
    sent_at INTEGER NOT NULL,
    UNIQUE (execution, client_id)
) STRICT;

INSERT INTO inbox (id, execution, client_id, kind, call_id, name, data, sent_at)
SELECT id, execution, client_id, kind, call_id, name, data, sent_at
FROM old_inbox;

DROP TABLE old_inbox;

CREATE INDEX inbox_waiting ON inbox (execution) WHERE data IS NOT NULL;

CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL CHECK (version > 0),
    key_id TEXT NOT NULL,
    data BLOB NOT NULL,  -- Encrypted: the nonce, then the ciphertext.
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE cached_results (
    key BLOB PRIMARY KEY,
    data BLOB NOT NULL,
    expires_at INTEGER  -- NULL: never.
) STRICT, WITHOUT ROWID;
