-- name: store_id
SELECT instance_id FROM tailrace.identity

-- name: archived_at
SELECT seq, entry_id FROM (
    (SELECT seq, entry_id FROM tailrace.events WHERE partition = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 1)
    UNION ALL
    (SELECT seq, entry_id FROM tailrace.parked WHERE partition = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 1)
) AS known
ORDER BY seq DESC LIMIT 1

-- name: affected
SELECT workflow_id FROM tailrace.events WHERE partition = $1 AND seq > $2
UNION
SELECT workflow_id FROM tailrace.parked WHERE partition = $1 AND seq > $2

-- name: abandon
WITH lost AS (
    DELETE FROM tailrace.events WHERE partition = $1 AND seq > $2
    RETURNING partition, seq, entry_id, workflow_id, version, type, traceparent, raw
), unarchived AS (
    DELETE FROM tailrace.parked WHERE partition = $1 AND seq > $2
    RETURNING partition, seq, entry_id, workflow_id, version, type, traceparent, raw
), kept AS (
    INSERT INTO tailrace.abandoned (partition, seq, entry_id, workflow_id, version, type, traceparent, raw)
    SELECT * FROM lost UNION SELECT * FROM unarchived
    RETURNING 1
)
SELECT count(*) FROM kept

-- name: place
UPDATE tailrace.checkpoints
SET position = $3, seq = $4, confirmed_position = $3, confirmed_seq = $4, updated_at = now()
WHERE partition = $1 AND (seq > $2 OR seq = $5)

-- name: log_epoch
UPDATE tailrace.partitions SET log_epoch = nullif($2, '') WHERE partition = $1
