-- Find the token of a hash.
SELECT name, digest, role, created_at, expires_at FROM tokens WHERE digest = ?;
