-- Store a secret in place of exactly the version that its writer has seen.
UPDATE secrets
SET version = :version, key_id = :key_id, data = :data, updated_at = :updated_at
WHERE name = :name AND version = :expected_version;
