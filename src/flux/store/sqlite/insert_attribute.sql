-- Give a new execution something to find it by.
INSERT INTO attributes (execution, name, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;
