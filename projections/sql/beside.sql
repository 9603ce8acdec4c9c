-- Unqualified tables are those beside; the ones that are read carry their schema.

-- name: archived
SELECT partition, seq FROM tailrace.checkpoints WHERE projection = 'archive' ORDER BY partition

-- name: export
SELECT pg_export_snapshot()

-- name: copy_all_parked
INSERT INTO parked SELECT * FROM tailrace.parked

-- name: behind
SELECT c.projection, c.partition, c.seq
FROM tailrace.checkpoints AS c JOIN tailrace.checkpoints AS a USING (partition)
WHERE a.projection = 'archive' AND c.seq < a.seq

-- name: count_workflows
SELECT count(*) FROM workflows

-- name: compare_workflows
SELECT
    workflow_id, '' AS key, count(*) OVER () AS differ,
    CASE WHEN f.partition IS NULL THEN 'unexpected' WHEN r.partition IS NULL THEN 'missing' ELSE 'different' END AS kind
FROM tailrace.workflows AS r FULL JOIN workflows AS f USING (workflow_id)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
ORDER BY workflow_id, key
LIMIT 20

-- name: count_stages
SELECT count(*) FROM stages

-- name: compare_stages
SELECT
    workflow_id, stage AS key, count(*) OVER () AS differ,
    CASE WHEN f.partition IS NULL THEN 'unexpected' WHEN r.partition IS NULL THEN 'missing' ELSE 'different' END AS kind
FROM tailrace.stages AS r FULL JOIN stages AS f USING (workflow_id, stage)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
ORDER BY workflow_id, key
LIMIT 20

-- name: count_tasks
SELECT count(*) FROM tasks

-- name: compare_tasks
SELECT
    workflow_id, task_id AS key, count(*) OVER () AS differ,
    CASE WHEN f.partition IS NULL THEN 'unexpected' WHEN r.partition IS NULL THEN 'missing' ELSE 'different' END AS kind
FROM tailrace.tasks AS r FULL JOIN tasks AS f USING (workflow_id, task_id)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
ORDER BY workflow_id, key
LIMIT 20

-- name: count_stalls
SELECT count(*) FROM stalls

-- name: compare_stalls
SELECT
    workflow_id, version AS key, count(*) OVER () AS differ,
    CASE WHEN f.partition IS NULL THEN 'unexpected' WHEN r.partition IS NULL THEN 'missing' ELSE 'different' END AS kind
FROM tailrace.stalls AS r FULL JOIN stalls AS f USING (workflow_id, version)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
ORDER BY workflow_id, key
LIMIT 20

-- name: moved_stops
SELECT coalesce(n.partition, p.partition) AS partition, coalesce(n.workflow_id, p.workflow_id) AS workflow_id
FROM (
    SELECT DISTINCT ON (workflow_id) workflow_id, partition, version FROM tailrace_next.parked ORDER BY workflow_id, seq
) AS n
FULL JOIN (
    SELECT DISTINCT ON (workflow_id) workflow_id, partition, version FROM tailrace.parked ORDER BY workflow_id, seq
) AS p USING (workflow_id)
WHERE n.version IS DISTINCT FROM p.version
ORDER BY 1, 2

-- name: forget_parked
DELETE FROM tailrace_next.parked WHERE workflow_id = ANY ($1::text[])

-- name: copy_parked
INSERT INTO tailrace_next.parked SELECT * FROM tailrace.parked WHERE workflow_id = ANY ($1::text[])

-- name: count_agents
SELECT count(*) FROM agents

-- name: compare_agents
SELECT
    '' AS workflow_id, concat_ws(' ', agent, worker, day, partition) AS key, count(*) OVER () AS differ,
    CASE WHEN f.completed IS NULL THEN 'unexpected' WHEN r.completed IS NULL THEN 'missing' ELSE 'different' END AS kind
FROM tailrace.agents AS r FULL JOIN agents AS f USING (agent, worker, day, partition)
WHERE ROW(r.*) IS DISTINCT FROM ROW(f.*)
ORDER BY workflow_id, key
LIMIT 20

-- name: count_totals
SELECT count(*) FROM totals WHERE runs <> 0

-- name: compare_totals
SELECT
    '' AS workflow_id, concat_ws(' ', status, partition) AS key, count(*) OVER () AS differ,
    CASE WHEN coalesce(f.runs, 0) = 0 THEN 'unexpected' WHEN coalesce(r.runs, 0) = 0 THEN 'missing' ELSE 'different' END
        AS kind
FROM tailrace.totals AS r FULL JOIN totals AS f USING (status, partition)
WHERE coalesce(r.runs, 0) <> coalesce(f.runs, 0)
ORDER BY workflow_id, key
LIMIT 20

-- name: count_hours
SELECT count(*) FROM hours

-- name: compare_hours
SELECT
    '' AS workflow_id, concat_ws(' ', hour AT TIME ZONE 'UTC', partition) AS key, count(*) OVER () AS differ,
    CASE WHEN f.created IS NULL THEN 'unexpected' WHEN r.created IS NULL THEN 'missing' ELSE 'different' END AS kind
FROM tailrace.hours AS r FULL JOIN hours AS f USING (hour, partition)
-- (Counts that have all gone back to 0 say the same as a row that is not there.)
WHERE coalesce(r.created, array_fill(0, ARRAY[60])) <> coalesce(f.created, array_fill(0, ARRAY[60]))
   OR coalesce(r.completed, array_fill(0, ARRAY[60])) <> coalesce(f.completed, array_fill(0, ARRAY[60]))
ORDER BY workflow_id, key
LIMIT 20

-- name: lock
SELECT pg_try_advisory_lock(hashtextextended('tailrace.rebuild', 0))

-- name: freeze
SELECT projection FROM tailrace.checkpoints ORDER BY projection, partition FOR UPDATE

-- name: settings
SELECT reloptions FROM pg_class WHERE oid = ('tailrace.' || $1)::regclass

-- name: grants
SELECT
    format(
        'GRANT %s ON tailrace_next.%I TO %s%s', a.privilege_type, c.relname,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    ) AS statement
FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
WHERE c.oid = ('tailrace.' || $1)::regclass AND a.grantee <> c.relowner

-- name: missing_constraints
SELECT c.conname, pg_get_constraintdef(c.oid) AS definition FROM pg_constraint AS c
WHERE c.conrelid = ('tailrace.' || $1)::regclass AND c.contype IN ('p', 'u', 'c')
  AND NOT EXISTS (
      SELECT FROM pg_constraint AS n
      WHERE n.conrelid = ($2 || '.' || $1)::regclass AND n.conname = c.conname
  )
