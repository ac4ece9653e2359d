-- Read a stretch of a history.
--
-- Texts come as bytes, so that a damaged one reaches the checksum instead of failing in the driver's decoder.
SELECT
    seq,
    fence,
    CAST(type AS BLOB),
    CAST(call_id AS BLOB),
    CAST(name AS BLOB),
    data,
    detail_data,
    time_us,
    checksum
FROM events
WHERE execution = ? AND seq > ? AND seq <= ?
ORDER BY seq;
