-- Put aside what a dead worker owned and what was taken over too often without getting further.
--
-- It is free again for another version, or when a person asks.
UPDATE executions
SET
    state = 'SCHEDULED',
    worker = NULL,
    blocked_reason = :reason,
    blocked_version = coalesce(claimed_version, version)
WHERE worker = :worker AND state = 'RUNNING' AND takeovers >= :limit AND taken_over_seq = last_seq;
