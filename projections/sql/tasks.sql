-- name: write
INSERT INTO tailrace.tasks (
    workflow_id, task_id, partition, stage, attempt, agent, worker, status, deliveries, progress,
    dispatched_at, started_at, finished_at, error
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::text[], $9::integer[],
    $10::double precision[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::jsonb[]
)
ON CONFLICT (workflow_id, task_id) DO UPDATE
SET worker = EXCLUDED.worker, status = EXCLUDED.status, deliveries = EXCLUDED.deliveries,
    progress = EXCLUDED.progress, dispatched_at = EXCLUDED.dispatched_at, started_at = EXCLUDED.started_at,
    finished_at = EXCLUDED.finished_at, error = EXCLUDED.error

-- name: clear
DELETE FROM tailrace.tasks WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
