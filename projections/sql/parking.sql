-- name: runs
SELECT DISTINCT ON (workflow_id) workflow_id, version FROM parked WHERE partition = $1
ORDER BY workflow_id, seq

-- name: park
INSERT INTO parked (partition, seq, entry_id, workflow_id, version, type, traceparent, at, raw, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (partition, seq) DO NOTHING

-- name: mark
INSERT INTO workflows AS w (
    workflow_id, partition, type, name, status, version, created_at, updated_at, parked_version, parked_reason
)
SELECT DISTINCT ON (workflow_id)
    workflow_id, partition, '', '', 'initiated', 0, coalesce(at, parked_at), coalesce(at, parked_at), version, reason
FROM parked
WHERE workflow_id = ANY ($1::text[])
ORDER BY workflow_id, seq
ON CONFLICT (workflow_id) DO UPDATE
SET parked_version = EXCLUDED.parked_version, parked_reason = EXCLUDED.parked_reason

-- name: unpark
DELETE FROM parked WHERE workflow_id = $1

-- name: last_version
SELECT coalesce(max(version), 0) FROM parked WHERE workflow_id = $1
