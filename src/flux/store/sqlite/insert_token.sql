-- Keep a token.
INSERT INTO tokens (name, digest, role, created_at, expires_at)
VALUES (:name, :digest, :role, :created_at, :expires_at)
ON CONFLICT (name) DO NOTHING;
