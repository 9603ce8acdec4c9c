-- name: insert
INSERT INTO stalls (
    partition, workflow_id, version, cause, hop, summary, suggestion, evidence, since, cleared_at
)
SELECT
    $1, workflow_id, version, cause, hop, summary, suggestion, evidence,
    tailrace.instant(since), tailrace.instant(cleared_at)
FROM json_to_recordset($2) AS n (
    workflow_id text, version bigint, cause text, hop text, summary text, suggestion text, evidence jsonb,
    since bigint, cleared_at bigint
)

-- name: or_update
ON CONFLICT (workflow_id, version) DO UPDATE SET cleared_at = EXCLUDED.cleared_at

-- name: clear
DELETE FROM stalls WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
