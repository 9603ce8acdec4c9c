-- name: write
INSERT INTO tailrace.stalls (
    workflow_id, version, partition, cause, hop, summary, suggestion, evidence, since, cleared_at
)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[],
    $9::timestamptz[], $10::timestamptz[]
)
ON CONFLICT (workflow_id, version) DO UPDATE SET cleared_at = EXCLUDED.cleared_at

-- name: clear
DELETE FROM tailrace.stalls WHERE partition = $1 AND ($2::text IS NULL OR workflow_id = $2)
