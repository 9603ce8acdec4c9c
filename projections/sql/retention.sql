-- name: first_kept
WITH confirmed AS (
    SELECT min(confirmed_seq) AS seq FROM tailrace.checkpoints
    WHERE partition = $1
      AND EXISTS (SELECT FROM tailrace.partitions WHERE partition = $1 AND owner = $2 AND problem IS NULL)
), wanted AS (
    SELECT greatest(
        least(c.seq, (
            SELECT min(p.seq) FROM tailrace.positions AS p
            WHERE p.partition = $1 AND p.updated_at > now() - make_interval(secs => $5)
        )) - $3,
        c.seq - $4
    ) AS seq
    FROM confirmed AS c
)
SELECT known.seq, known.entry_id FROM wanted CROSS JOIN LATERAL (
    (SELECT e.seq, e.entry_id FROM tailrace.events AS e
     WHERE e.partition = $1 AND e.seq <= wanted.seq ORDER BY e.seq DESC LIMIT 1)
    UNION ALL
    (SELECT k.seq, k.entry_id FROM tailrace.parked AS k
     WHERE k.partition = $1 AND k.seq <= wanted.seq ORDER BY k.seq DESC LIMIT 1)
) AS known
ORDER BY known.seq DESC LIMIT 1

-- name: forgotten
SELECT ended_at, workflow_id FROM tailrace.retention WHERE partition = $1

-- name: archived
SELECT min(confirmed_seq) AS seq, min(event_at) AS event_at FROM tailrace.checkpoints
WHERE partition = $1 AND EXISTS (SELECT FROM tailrace.partitions WHERE partition = $1 AND owner = $2 AND problem IS NULL)

-- name: ended
SELECT w.workflow_id, w.version, w.completed_at, coalesce(e.seq <= $5, false) AS confirmed
FROM tailrace.workflows AS w
LEFT JOIN tailrace.events AS e ON e.workflow_id = w.workflow_id AND e.version = w.version
WHERE w.partition = $1 AND w.completed_at IS NOT NULL
  AND (w.completed_at, w.workflow_id) > ($2::timestamptz, $3::text) AND w.completed_at < $4
ORDER BY w.completed_at, w.workflow_id
LIMIT $6

-- name: forget
INSERT INTO tailrace.retention AS r (partition, ended_at, workflow_id)
SELECT partition, $3, $4 FROM tailrace.partitions WHERE partition = $1 AND owner = $2
ON CONFLICT (partition) DO UPDATE
SET ended_at = EXCLUDED.ended_at, workflow_id = EXCLUDED.workflow_id, updated_at = now()
