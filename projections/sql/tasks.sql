-- name: write
INSERT INTO tasks (
    partition, workflow_id, task_id, stage, attempt, agent, worker, status, deliveries, progress,
    dispatched_at, started_at, finished_at, error, compensation
)
SELECT
    $1, workflow_id, task_id, stage, attempt, agent, worker, status, deliveries, progress,
    tailrace.instant(dispatched_at), tailrace.instant(started_at), tailrace.instant(finished_at), error, compensation
FROM json_to_recordset($2) AS n (
    workflow_id text, task_id text, stage text, attempt integer, agent text, worker text, status text,
    deliveries integer, progress double precision, dispatched_at bigint, started_at bigint, finished_at bigint,
    error jsonb, compensation boolean
)
ON CONFLICT (workflow_id, task_id) DO UPDATE
SET worker = EXCLUDED.worker, status = EXCLUDED.status, deliveries = EXCLUDED.deliveries,
    progress = EXCLUDED.progress, dispatched_at = EXCLUDED.dispatched_at, started_at = EXCLUDED.started_at,
    finished_at = EXCLUDED.finished_at, error = EXCLUDED.error

-- name: clear
DELETE FROM tasks WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
