-- Labels, as JSON: those that a worker has, and those that a workflow asks for.

ALTER TABLE workers ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE workflows ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
