-- Say that a worker serves a workflow.
INSERT INTO served (worker, workflow) VALUES (?, ?) ON CONFLICT DO NOTHING;
