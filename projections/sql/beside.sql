-- Unqualified tables are those beside; the ones that are read carry their schema.

-- name: archived
SELECT partition, seq FROM tailrace.checkpoints WHERE projection = 'archive' ORDER BY partition

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

-- name: lock
SELECT pg_try_advisory_lock(hashtextextended('tailrace.rebuild', 0))

-- name: freeze
SELECT projection FROM tailrace.checkpoints ORDER BY projection, partition FOR UPDATE

-- name: settings
SELECT reloptions FROM pg_class WHERE oid = ('tailrace.' || $1)::regclass

-- name: constraints
SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
WHERE conrelid = ('tailrace.' || $1)::regclass AND contype IN ('p', 'u', 'c')

-- name: indexes
SELECT pg_get_indexdef(i.indexrelid) AS definition FROM pg_index AS i
WHERE i.indrelid = ('tailrace.' || $1)::regclass
  AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)

-- name: newly_parked
SELECT n.workflow_id, n.reason FROM tailrace_next.parked AS n
WHERE NOT EXISTS (SELECT FROM tailrace.parked AS p WHERE p.partition = n.partition AND p.seq = n.seq)
ORDER BY n.partition, n.seq LIMIT 1
