-- The database as it is after every migration: for reading.  A test holds the two together.
--
-- An execution is one row that says who must act next, and its history is the rows of events.  What comes from
-- outside is a row of the inbox until the owner moves it into the history.  Times are integers, microseconds
-- since the Unix epoch.  The CHECKs repeat domain/execution.py: a row that it calls impossible is refused here.

CREATE TABLE executions (
    number INTEGER PRIMARY KEY,  -- Small and growing, so that events are keyed cheaply.
    execution_id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    workflow TEXT NOT NULL,
    version TEXT NOT NULL,
    location TEXT NOT NULL,
    start_digest BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('SCHEDULED', 'RUNNING', 'PAUSED', 'COMPLETED', 'FAILED', 'CANCELLED')),
    worker TEXT,
    fence INTEGER NOT NULL CHECK (fence >= 0),  -- Counts claims: an append under a lower fence is refused.
    last_seq INTEGER NOT NULL CHECK (last_seq >= 0),
    wake_at INTEGER,  -- Not to be claimed before; NULL: due now.
    blocked_reason TEXT,
    blocked_version TEXT,  -- The version that cannot run it; NULL beside a reason: none can.
    created_at INTEGER NOT NULL,
    created_by TEXT,  -- The worker it was born to: tells a repeated create from a competing one.
    started_at INTEGER,
    finished_at INTEGER, first_seq INTEGER NOT NULL DEFAULT 1, parent INTEGER REFERENCES executions (number), parent_call TEXT, claimed_version TEXT, takeovers INTEGER NOT NULL DEFAULT 0, taken_over_seq INTEGER NOT NULL DEFAULT 0, forked_from TEXT, changed INTEGER NOT NULL DEFAULT 0,
    CHECK ((worker IS NOT NULL) = (state = 'RUNNING')),
    CHECK ((finished_at IS NOT NULL) = (state IN ('COMPLETED', 'FAILED', 'CANCELLED'))),
    CHECK (state = 'SCHEDULED' OR (fence > 0 AND started_at IS NOT NULL)),
    CHECK (state = 'SCHEDULED' OR (wake_at IS NULL AND blocked_reason IS NULL)),
    CHECK (blocked_version IS NULL OR blocked_reason IS NOT NULL)
) STRICT;

CREATE INDEX executions_due ON executions (workflow, wake_at) WHERE state = 'SCHEDULED';
CREATE INDEX executions_children ON executions (parent) WHERE parent IS NOT NULL;
CREATE INDEX executions_owned ON executions (worker) WHERE state = 'RUNNING';
CREATE INDEX executions_changed ON executions (changed);
CREATE INDEX executions_by_state ON executions (state, workflow);

CREATE TRIGGER execution_created AFTER INSERT ON executions
BEGIN
    UPDATE executions SET changed = (SELECT max(changed) + 1 FROM executions) WHERE number = new.number;
END;

CREATE TRIGGER execution_changed AFTER UPDATE OF state, blocked_reason ON executions
WHEN new.state <> old.state OR new.blocked_reason IS NOT old.blocked_reason
BEGIN
    UPDATE executions SET changed = (SELECT max(changed) + 1 FROM executions) WHERE number = new.number;
END;

CREATE TABLE events (
    execution INTEGER NOT NULL REFERENCES executions (number),
    seq INTEGER NOT NULL CHECK (seq > 0),
    fence INTEGER NOT NULL,
    type TEXT NOT NULL,
    call_id TEXT NOT NULL,
    name TEXT NOT NULL,
    data BLOB,
    detail_data BLOB,
    time_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (execution, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE pauses (
    id INTEGER PRIMARY KEY,  -- In the order in which they were opened.
    execution INTEGER NOT NULL REFERENCES executions (number),
    call_id TEXT NOT NULL,
    name TEXT NOT NULL,
    resumed_at INTEGER,  -- When a resume was bound to it: there is one a pause.
    UNIQUE (execution, call_id)
) STRICT;

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,  -- In the order in which they were sent.
    execution INTEGER NOT NULL REFERENCES executions (number),
    client_id TEXT,
    kind TEXT NOT NULL CHECK (kind IN ('resume', 'signal', 'cancel', 'child')),
    call_id TEXT NOT NULL,
    name TEXT NOT NULL,
    data BLOB,  -- NULL once it is in the history; the row stays, so that a repeat is recognised.
    sent_at INTEGER NOT NULL, checksum INTEGER,
    UNIQUE (execution, client_id)
) STRICT;

CREATE INDEX inbox_waiting ON inbox (execution) WHERE data IS NOT NULL;

CREATE TABLE workers (
    worker TEXT PRIMARY KEY CHECK (worker NOT GLOB '*[^A-Za-z0-9_.:@-]*'),  -- It names a lock file.
    lease_expires_at INTEGER NOT NULL
, process TEXT NOT NULL DEFAULT '', started_at INTEGER, labels TEXT NOT NULL DEFAULT '{}') STRICT, WITHOUT ROWID;

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
, checksum INTEGER) STRICT, WITHOUT ROWID;

CREATE TABLE attributes (
    execution INTEGER NOT NULL REFERENCES executions (number),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (execution, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX attributes_by_value ON attributes (name, value, execution);

CREATE TABLE workflows (
    name TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    location TEXT NOT NULL,
    description TEXT NOT NULL,
    input_schema TEXT,  -- JSON; NULL: any value.
    output_schema TEXT
, labels TEXT NOT NULL DEFAULT '{}') STRICT, WITHOUT ROWID;

CREATE TABLE served (  -- Which worker serves which workflow.
    worker TEXT NOT NULL REFERENCES workers (worker) ON DELETE CASCADE,
    workflow TEXT NOT NULL,
    PRIMARY KEY (worker, workflow)
) STRICT, WITHOUT ROWID;

CREATE TABLE lines (
    id INTEGER PRIMARY KEY,
    execution INTEGER NOT NULL REFERENCES executions (number),
    call_id TEXT NOT NULL,
    task TEXT NOT NULL,
    stream TEXT NOT NULL,
    text TEXT NOT NULL,
    time_us INTEGER NOT NULL
) STRICT;

CREATE INDEX lines_of_execution ON lines (execution, id);

CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,  -- SHA-256: a token is long and random, so no slow hash is needed.
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
