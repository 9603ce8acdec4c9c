-- name: add
INSERT INTO hours AS h (hour, partition, created, completed)
SELECT timestamptz 'epoch' + hour * interval '1 hour', $1, created, completed
FROM json_to_recordset($2) AS n (hour bigint, created integer[], completed integer[])
ON CONFLICT (hour, partition) DO UPDATE
SET created = ARRAY(
        SELECT old + more FROM unnest(h.created, EXCLUDED.created) WITH ORDINALITY AS u (old, more, minute) ORDER BY minute
    ),
    completed = ARRAY(
        SELECT old + more FROM unnest(h.completed, EXCLUDED.completed) WITH ORDINALITY AS u (old, more, minute)
        ORDER BY minute
    )

-- name: clear
DELETE FROM hours WHERE partition = $1

-- name: run
SELECT created_at, CASE WHEN status = 'completed' THEN completed_at END AS completed_at
FROM workflows WHERE workflow_id = $1 AND version > 0
