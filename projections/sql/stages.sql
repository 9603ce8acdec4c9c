-- name: write
INSERT INTO stages AS s (
    partition, workflow_id, stage, ordinal, status, weight, attempt, tries, progress, worker,
    started_at, finished_at, retry_at, output_attempt, output, error, compensation
)
SELECT
    $1, workflow_id, stage, ordinal, status, weight, attempt, tries, progress, worker,
    tailrace.instant(started_at), tailrace.instant(finished_at), tailrace.instant(retry_at), output_attempt, output, error,
    compensation
FROM json_to_recordset($2) AS n (
    workflow_id text, stage text, ordinal integer, status text, weight integer, attempt integer, tries integer,
    progress double precision, worker text, started_at bigint, finished_at bigint, retry_at bigint,
    output_attempt integer, output jsonb, error jsonb, compensation text
)
ON CONFLICT (workflow_id, stage) DO UPDATE
SET status = EXCLUDED.status, attempt = EXCLUDED.attempt, tries = EXCLUDED.tries, progress = EXCLUDED.progress,
    worker = EXCLUDED.worker, started_at = EXCLUDED.started_at, finished_at = EXCLUDED.finished_at,
    retry_at = EXCLUDED.retry_at, output_attempt = EXCLUDED.output_attempt, error = EXCLUDED.error,
    compensation = EXCLUDED.compensation,
    output = CASE WHEN EXCLUDED.output_attempt IS NOT DISTINCT FROM s.output_attempt THEN s.output
                  ELSE EXCLUDED.output END

-- name: clear
DELETE FROM stages WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
