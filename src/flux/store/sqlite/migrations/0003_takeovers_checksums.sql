-- How often in a row an execution was taken over from the dead without getting further, to quarantine poison; and
-- checksums for what else is served as it was written.  A row without one is from before.

ALTER TABLE executions ADD COLUMN claimed_version TEXT;
ALTER TABLE executions ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN taken_over_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inbox ADD COLUMN checksum INTEGER;
ALTER TABLE cached_results ADD COLUMN checksum INTEGER;
