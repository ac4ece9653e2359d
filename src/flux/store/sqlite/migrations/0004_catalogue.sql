-- What a server shows and finds: attributes, changes, workflows of workers, lines that tasks print, tokens.

ALTER TABLE executions ADD COLUMN forked_from TEXT;
ALTER TABLE executions ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;  -- Counts the changes of all executions.
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

CREATE TABLE attributes (
    execution INTEGER NOT NULL REFERENCES executions (number),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (execution, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX attributes_by_value ON attributes (name, value, execution);

ALTER TABLE workers ADD COLUMN process TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN started_at INTEGER;

CREATE TABLE workflows (
    name TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    location TEXT NOT NULL,
    description TEXT NOT NULL,
    input_schema TEXT,  -- JSON; NULL: any value.
    output_schema TEXT
) STRICT, WITHOUT ROWID;

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
