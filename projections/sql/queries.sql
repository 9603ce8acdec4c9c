-- name: workflows
SELECT
    workflow_id, type, name, description, requirements, priority, definition, status, current_stage, progress_percentage, version,
    round, trace_id, labels, input, error, stall, created_at, updated_at, completed_at, partition, parked_version, parked_reason
FROM tailrace.workflows
-- (One status is compared as such: only then the index gives its runs in order.)
WHERE ($1::text IS NULL OR status = $1)
  AND ($11::text[] IS NULL OR status = ANY ($11))
  AND ($2::text IS NULL OR type = $2)
  AND ($3::jsonb IS NULL OR labels @> $3)
  AND ($4::text IS NULL OR name ILIKE $4 OR description ILIKE $4 OR workflow_id LIKE $5)
  AND ($6::boolean IS NULL OR (stall IS NOT NULL) = $6)
  AND ($7::timestamptz IS NULL OR (created_at, workflow_id) < ($7, $8::text))
  AND ($10::jsonb IS NULL OR input @> $10)
ORDER BY created_at DESC, workflow_id DESC
LIMIT $9

-- name: workflow
SELECT
    workflow_id, type, name, description, requirements, priority, definition, status, current_stage, progress_percentage, version,
    round, trace_id, labels, input, error, stall, created_at, updated_at, completed_at, partition, parked_version, parked_reason,
    coalesce(
        (SELECT json_object_agg(s.stage, s.output ORDER BY s.ordinal) FROM tailrace.stages AS s
         WHERE s.workflow_id = w.workflow_id AND s.output_attempt IS NOT NULL), '{}'
    ) AS stage_outputs
FROM tailrace.workflows AS w
WHERE w.workflow_id = $1

-- name: stages
SELECT * FROM tailrace.stages WHERE workflow_id = $1 ORDER BY ordinal

-- name: tasks
SELECT * FROM tailrace.tasks WHERE workflow_id = $1 ORDER BY dispatched_at, stage, attempt

-- name: events
-- With what could not be archived, and was kept among the parked ones alone.
(SELECT partition, entry_id, seq, workflow_id, version, type, traceparent, raw
 FROM tailrace.events WHERE workflow_id = $1 AND version > $2 ORDER BY version LIMIT $3)
UNION ALL
(SELECT partition, entry_id, seq, workflow_id, version, type, traceparent, raw
 FROM tailrace.parked AS p
 WHERE workflow_id = $1 AND version > $2
   AND NOT EXISTS (SELECT FROM tailrace.events AS e WHERE e.workflow_id = p.workflow_id AND e.version = p.version)
 ORDER BY version LIMIT $3)
ORDER BY version LIMIT $3

-- name: log
-- Likewise.
(SELECT partition, entry_id, seq, workflow_id, version, type, traceparent, raw
 FROM tailrace.events WHERE partition = $1 AND seq > $2 ORDER BY seq LIMIT $3)
UNION ALL
(SELECT partition, entry_id, seq, workflow_id, version, type, traceparent, raw
 FROM tailrace.parked AS p
 WHERE partition = $1 AND seq > $2
   AND NOT EXISTS (SELECT FROM tailrace.events AS e WHERE e.partition = p.partition AND e.seq = p.seq)
 ORDER BY seq LIMIT $3)
ORDER BY seq LIMIT $3

-- name: archived_version
SELECT coalesce(max(version), 0) AS version FROM tailrace.events WHERE workflow_id = $1

-- name: stalls
SELECT * FROM tailrace.stalls
WHERE (NOT $1::boolean OR cleared_at IS NULL)
  AND ($2::text IS NULL OR workflow_id = $2)
ORDER BY since DESC, workflow_id DESC, version DESC
LIMIT $3

-- name: parked
SELECT * FROM tailrace.parked WHERE ($1::text IS NULL OR workflow_id = $1) ORDER BY partition, seq LIMIT $2

-- name: parked_runs
SELECT partition, count(DISTINCT workflow_id) AS runs FROM tailrace.parked GROUP BY partition

-- name: overview
SELECT
    (SELECT coalesce(jsonb_object_agg(status, runs), '{}')
     FROM (
         SELECT status, sum(runs) AS runs FROM (
             SELECT status, runs FROM tailrace.totals
             -- Runs whose first event is parked have a row, and no status that anybody counted.
             UNION ALL SELECT status, 1 FROM tailrace.workflows WHERE type = '' AND version = 0
         ) AS parts
         GROUP BY status
     ) AS s) AS by_status,
    (SELECT count(*) FROM tailrace.workflows WHERE stall IS NOT NULL) AS stalled,
    (SELECT count(DISTINCT workflow_id) FROM tailrace.parked) AS parked,
    (SELECT coalesce(jsonb_object_agg(agent, open), '{}')
     FROM (SELECT agent, count(*) AS open FROM tailrace.tasks WHERE finished_at IS NULL GROUP BY agent) AS t
    ) AS open_tasks,
    coalesce(m.created, 0) AS created_last_hour,
    coalesce(m.completed, 0) AS completed_last_hour
FROM (
    SELECT sum(u.created) AS created, sum(u.completed) AS completed
    FROM tailrace.hours AS h
    CROSS JOIN unnest(h.created, h.completed) WITH ORDINALITY AS u (created, completed, minute)
    WHERE h.hour > now() - interval '2 hours'
      AND h.hour + (u.minute - 1) * interval '1 minute' > now() - interval '1 hour'
) AS m

-- name: agent_stats
WITH latest AS (
    SELECT agent, max(day) AS day FROM tailrace.agents WHERE $1::text IS NULL OR agent = $1 GROUP BY agent
), figures AS (
    SELECT
        a.agent, a.worker,
        sum(a.completed)::bigint AS completed,
        sum(a.failed)::bigint AS failed,
        sum(a.cancelled)::bigint AS cancelled,
        sum(a.deliveries)::bigint AS deliveries,
        sum(a.redelivered)::bigint AS redelivered,
        (sum(a.completed) / nullif(sum(a.completed + a.failed), 0))::double precision AS success_rate,
        (sum(a.wait_us) / nullif(sum(a.started), 0) / 1000000)::double precision AS mean_wait_seconds,
        (sum(a.run_us) / nullif(sum(a.started), 0) / 1000000)::double precision AS mean_run_seconds
    FROM tailrace.agents AS a JOIN latest AS l ON a.agent = l.agent AND a.day > l.day - $2::integer
    GROUP BY GROUPING SETS ((a.agent), (a.agent, a.worker))
), open AS (
    SELECT agent, count(*) AS open FROM tailrace.tasks
    WHERE finished_at IS NULL AND ($1::text IS NULL OR agent = $1) GROUP BY agent
), names AS (
    SELECT agent FROM latest UNION SELECT agent FROM open
)
SELECT
    agent, f.worker, coalesce(o.open, 0) AS open,
    coalesce(f.completed, 0) AS completed, coalesce(f.failed, 0) AS failed, coalesce(f.cancelled, 0) AS cancelled,
    coalesce(f.deliveries, 0) AS deliveries, coalesce(f.redelivered, 0) AS redelivered,
    f.success_rate, f.mean_wait_seconds, f.mean_run_seconds
FROM names LEFT JOIN figures AS f USING (agent) LEFT JOIN open AS o USING (agent)
ORDER BY agent, f.worker NULLS FIRST

-- name: store_id
SELECT instance_id FROM tailrace.identity

-- name: checkpoints
SELECT
    c.*, CASE WHEN p.lease_until > clock_timestamp() THEN nullif(p.owner, '') END AS owner, p.epoch, p.problem
FROM tailrace.checkpoints AS c JOIN tailrace.partitions AS p USING (partition)
ORDER BY c.partition, c.projection
