-- name: earlier
SELECT e.partition, e.entry_id, e.seq, e.workflow_id, e.version, e.type, e.traceparent, e.raw
FROM unnest($1::text[], $2::bigint[]) AS wanted (workflow_id, version)
JOIN tailrace.events AS e ON e.workflow_id = wanted.workflow_id AND e.version < wanted.version
ORDER BY e.workflow_id, e.version

-- name: stretch
SELECT partition, entry_id, seq, workflow_id, version, type, traceparent, raw
FROM tailrace.events
WHERE partition = $1 AND seq > $2 AND seq <= $3
ORDER BY seq
LIMIT $4

-- name: derive
UPDATE tailrace.events AS e
SET at = n.at, data = n.data
FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::jsonb[]) AS n (workflow_id, version, at, data)
WHERE e.workflow_id = n.workflow_id AND e.version = n.version AND e.data IS NULL
