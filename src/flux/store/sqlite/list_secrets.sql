-- List all secrets, as they are: encrypted.
SELECT name, version, key_id, data, updated_at
FROM secrets
ORDER BY name;
