-- name: histories
SELECT partition, entry_id, seq, workflow_id, version, type, traceparent, raw
FROM tailrace.events
WHERE (workflow_id, version) > ($1::text, $2::bigint)
ORDER BY workflow_id, version
LIMIT $3
