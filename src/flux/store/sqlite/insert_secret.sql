-- Store a secret that is not there yet.
INSERT INTO secrets (name, version, key_id, data, updated_at)
VALUES (:name, :version, :key_id, :data, :updated_at)
ON CONFLICT (name) DO NOTHING;
