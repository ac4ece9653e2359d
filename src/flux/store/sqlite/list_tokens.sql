-- List the tokens.
SELECT name, digest, role, created_at, expires_at FROM tokens ORDER BY name;
