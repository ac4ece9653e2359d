-- Keep a result for equal calls, in place of an older one.
INSERT OR REPLACE INTO cached_results (key, data, expires_at, checksum) VALUES (?, ?, ?, ?);
