-- name: write
INSERT INTO tailrace.stages AS s (
    workflow_id, stage, ordinal, partition, status, weight, attempt, tries, progress, worker,
    started_at, finished_at, retry_at, output_attempt, output, error
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::integer[], $5::text[], $6::integer[], $7::integer[], $8::integer[],
    $9::double precision[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::integer[],
    $15::jsonb[], $16::jsonb[]
)
ON CONFLICT (workflow_id, stage) DO UPDATE
SET status = EXCLUDED.status, attempt = EXCLUDED.attempt, tries = EXCLUDED.tries, progress = EXCLUDED.progress,
    worker = EXCLUDED.worker, started_at = EXCLUDED.started_at, finished_at = EXCLUDED.finished_at,
    retry_at = EXCLUDED.retry_at, output_attempt = EXCLUDED.output_attempt, error = EXCLUDED.error,
    output = CASE WHEN EXCLUDED.output_attempt IS NOT DISTINCT FROM s.output_attempt THEN s.output
                  ELSE EXCLUDED.output END

-- name: clear
DELETE FROM tailrace.stages WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
