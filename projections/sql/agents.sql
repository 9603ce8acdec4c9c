-- name: add
INSERT INTO agents AS a (
    agent, worker, day, partition, completed, failed, cancelled, deliveries, redelivered, started, wait_us, run_us
)
SELECT
    agent, worker, date '1970-01-01' + day, $1, completed, failed, cancelled, deliveries, redelivered, started,
    wait_us, run_us
FROM json_to_recordset($2) AS n (
    agent text, worker text, day integer, completed bigint, failed bigint, cancelled bigint, deliveries bigint,
    redelivered bigint, started bigint, wait_us bigint, run_us bigint
)
ON CONFLICT (agent, worker, day, partition) DO UPDATE
SET completed = a.completed + EXCLUDED.completed, failed = a.failed + EXCLUDED.failed,
    cancelled = a.cancelled + EXCLUDED.cancelled, deliveries = a.deliveries + EXCLUDED.deliveries,
    redelivered = a.redelivered + EXCLUDED.redelivered, started = a.started + EXCLUDED.started,
    wait_us = a.wait_us + EXCLUDED.wait_us, run_us = a.run_us + EXCLUDED.run_us

-- name: clear
DELETE FROM agents WHERE partition = $1

-- name: subtract
WITH counted AS (
    SELECT
        agent, worker, (finished_at AT TIME ZONE 'UTC')::date AS day,
        count(*) FILTER (WHERE status = 'completed') AS completed,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        sum(deliveries)::bigint AS deliveries,
        count(*) FILTER (WHERE deliveries > 1) AS redelivered,
        count(started_at) AS started,
        coalesce(sum(extract(epoch FROM started_at - dispatched_at) * 1000000), 0)::bigint AS wait_us,
        coalesce(sum(extract(epoch FROM finished_at - started_at) * 1000000), 0)::bigint AS run_us
    FROM tasks WHERE workflow_id = $2 AND finished_at IS NOT NULL
    GROUP BY 1, 2, 3
)
UPDATE agents AS a
SET completed = a.completed - c.completed, failed = a.failed - c.failed, cancelled = a.cancelled - c.cancelled,
    deliveries = a.deliveries - c.deliveries, redelivered = a.redelivered - c.redelivered,
    started = a.started - c.started, wait_us = a.wait_us - c.wait_us, run_us = a.run_us - c.run_us
FROM counted AS c
WHERE a.agent = c.agent AND a.worker = c.worker AND a.day = c.day AND a.partition = $1

-- name: tidy
DELETE FROM agents WHERE partition = $1 AND completed + failed + cancelled = 0
