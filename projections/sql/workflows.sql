-- name: begin
INSERT INTO tailrace.workflows (
    workflow_id, status, current_stage, progress_percentage, version, round, error, stall, updated_at, completed_at,
    partition, type, name, description, requirements, priority, definition, trace_id, labels, input, created_at
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::integer[], $5::bigint[], $6::integer[], $7::jsonb[], $8::jsonb[],
    $9::timestamptz[], $10::timestamptz[],
    $11::integer[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[],
    $19::jsonb[], $20::jsonb[], $21::timestamptz[]
)

-- name: move
UPDATE tailrace.workflows AS w
SET status = n.status, current_stage = n.current_stage, progress_percentage = n.progress_percentage,
    version = n.version, round = n.round, error = n.error, stall = n.stall, updated_at = n.updated_at,
    completed_at = n.completed_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::integer[], $5::bigint[], $6::integer[], $7::jsonb[], $8::jsonb[],
    $9::timestamptz[], $10::timestamptz[]
) AS n (
    workflow_id, status, current_stage, progress_percentage, version, round, error, stall, updated_at, completed_at
)
WHERE w.workflow_id = n.workflow_id

-- name: clear
DELETE FROM tailrace.workflows WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
