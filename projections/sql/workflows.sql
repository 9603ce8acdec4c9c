-- name: begin
INSERT INTO workflows (
    partition, workflow_id, type, name, description, requirements, priority, definition, trace_id, labels, input,
    status, current_stage, progress_percentage, version, round, error, stall, stage_outputs,
    created_at, updated_at, completed_at
)
SELECT
    $1, workflow_id, type, name, description, requirements, priority, definition, trace_id, labels, input,
    status, current_stage, progress_percentage, version, round, error, stall, stage_outputs,
    tailrace.instant(created_at), tailrace.instant(updated_at), tailrace.instant(completed_at)
FROM json_to_recordset($2) AS n (
    workflow_id text, type text, name text, description text, requirements text, priority text, definition text,
    trace_id text, labels jsonb, input jsonb, status text, current_stage text, progress_percentage integer,
    version bigint, round integer, error jsonb, stall jsonb, stage_outputs jsonb,
    created_at bigint, updated_at bigint, completed_at bigint
)

-- name: move
UPDATE workflows AS w
SET status = n.status, current_stage = n.current_stage, progress_percentage = n.progress_percentage,
    version = n.version, round = n.round, error = n.error, stall = n.stall,
    stage_outputs = CASE WHEN n.stage_outputs = '{}' AND n.withdrawn = '{}' THEN w.stage_outputs
                         ELSE w.stage_outputs - n.withdrawn || n.stage_outputs END,
    updated_at = tailrace.instant(n.updated_at), completed_at = tailrace.instant(n.completed_at)
FROM json_to_recordset($1) AS n (
    workflow_id text, status text, current_stage text, progress_percentage integer, version bigint, round integer,
    error jsonb, stall jsonb, stage_outputs jsonb, withdrawn text[], updated_at bigint, completed_at bigint
)
WHERE w.workflow_id = n.workflow_id

-- name: clear
DELETE FROM workflows WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
