-- `tailrace` is what is read, `tailrace_next` what was built beside; tables of `pg_temp` hold runs that were folded again.

-- name: moving
CREATE TEMP TABLE moving ON COMMIT DROP AS
SELECT DISTINCT e.workflow_id
FROM (
    SELECT c.partition, least(min(c.seq), min(n.seq)) AS seq
    FROM tailrace.checkpoints AS c JOIN tailrace_next.checkpoints AS n USING (projection, partition)
    GROUP BY c.partition
) AS even
JOIN tailrace.events AS e ON e.partition = even.partition AND e.seq > even.seq

-- name: differing_workflows
SELECT workflow_id, count(*) OVER () AS differ
FROM tailrace.workflows AS r FULL JOIN tailrace_next.workflows AS f USING (workflow_id)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
  AND NOT EXISTS (SELECT FROM moving AS m WHERE m.workflow_id = coalesce(r.workflow_id, f.workflow_id))
LIMIT $1

-- name: differing_stages
SELECT workflow_id, count(*) OVER () AS differ
FROM tailrace.stages AS r FULL JOIN tailrace_next.stages AS f USING (workflow_id, stage)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
  AND NOT EXISTS (SELECT FROM moving AS m WHERE m.workflow_id = coalesce(r.workflow_id, f.workflow_id))
LIMIT $1

-- name: differing_tasks
SELECT workflow_id, count(*) OVER () AS differ
FROM tailrace.tasks AS r FULL JOIN tailrace_next.tasks AS f USING (workflow_id, task_id)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
  AND NOT EXISTS (SELECT FROM moving AS m WHERE m.workflow_id = coalesce(r.workflow_id, f.workflow_id))
LIMIT $1

-- name: differing_stalls
SELECT workflow_id, count(*) OVER () AS differ
FROM tailrace.stalls AS r FULL JOIN tailrace_next.stalls AS f USING (workflow_id, version)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
  AND NOT EXISTS (SELECT FROM moving AS m WHERE m.workflow_id = coalesce(r.workflow_id, f.workflow_id))
LIMIT $1

-- name: any_workflows
SELECT workflow_id FROM tailrace_next.workflows ORDER BY random() LIMIT $1

-- name: any_stages
SELECT workflow_id FROM tailrace_next.stages ORDER BY random() LIMIT $1

-- name: any_tasks
SELECT workflow_id FROM tailrace_next.tasks ORDER BY random() LIMIT $1

-- name: any_stalls
SELECT workflow_id FROM tailrace_next.stalls ORDER BY random() LIMIT $1

-- name: histories
SELECT e.partition, e.entry_id, e.seq, e.workflow_id, e.version, e.type, e.traceparent, e.raw
FROM tailrace.events AS e
JOIN (SELECT DISTINCT partition, seq FROM tailrace_next.checkpoints) AS mark
    ON mark.partition = e.partition AND e.seq <= mark.seq
WHERE e.workflow_id = ANY ($1::text[])
  AND NOT EXISTS (
      SELECT FROM tailrace_next.parked AS p WHERE p.workflow_id = e.workflow_id AND p.version <= e.version
  )
ORDER BY e.workflow_id, e.version

-- name: parked
INSERT INTO parked SELECT * FROM tailrace_next.parked WHERE workflow_id = ANY ($1::text[])

-- name: wrong_workflows
SELECT workflow_id
FROM workflows AS r
FULL JOIN (SELECT * FROM tailrace_next.workflows WHERE workflow_id = ANY ($1::text[])) AS f
    USING (workflow_id)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*) LIMIT 1

-- name: wrong_stages
SELECT workflow_id
FROM stages AS r
FULL JOIN (SELECT * FROM tailrace_next.stages WHERE workflow_id = ANY ($1::text[])) AS f
    USING (workflow_id, stage)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*) LIMIT 1

-- name: wrong_tasks
SELECT workflow_id
FROM tasks AS r
FULL JOIN (SELECT * FROM tailrace_next.tasks WHERE workflow_id = ANY ($1::text[])) AS f
    USING (workflow_id, task_id)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*) LIMIT 1

-- name: wrong_stalls
SELECT workflow_id
FROM stalls AS r
FULL JOIN (SELECT * FROM tailrace_next.stalls WHERE workflow_id = ANY ($1::text[])) AS f
    USING (workflow_id, version)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*) LIMIT 1
