-- Revoke a token.
DELETE FROM tokens WHERE name = ?;
