-- Create an execution in the state that its first append leaves it in.
--
-- One that starts, works and finishes within one commit is this row and its events, and no update.
INSERT INTO executions (
    execution_id, namespace, workflow, version, location, start_digest, state, worker, fence, last_seq,
    wake_at, blocked_reason, blocked_version, created_at, created_by, started_at, finished_at,
    parent, parent_call, forked_from
)
VALUES (
    :execution_id, :namespace, :workflow, :version, :location, :start_digest, :state, :worker, :fence, :last_seq,
    :wake_at, :blocked_reason, :blocked_version, :created_at, :created_by, :started_at, :finished_at,
    (SELECT number FROM executions WHERE execution_id = :parent_id), :parent_call, :forked_from
)
ON CONFLICT (execution_id) DO NOTHING;
