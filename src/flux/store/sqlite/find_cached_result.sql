-- Find a result that equal calls may answer with.
SELECT data, expires_at, checksum
FROM cached_results
WHERE key = :key AND (expires_at IS NULL OR expires_at > :now);
