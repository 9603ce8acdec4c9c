-- name: add
INSERT INTO totals AS t (status, partition, runs)
SELECT status, $1, runs FROM unnest($2::text[], $3::bigint[]) AS n (status, runs)
ON CONFLICT (status, partition) DO UPDATE SET runs = t.runs + EXCLUDED.runs

-- name: clear
DELETE FROM totals WHERE partition = $1

-- name: subtract
UPDATE totals AS t SET runs = t.runs - 1
FROM workflows AS w
WHERE w.workflow_id = $2 AND w.version > 0 AND t.status = w.status AND t.partition = $1
