-- name: schema
CREATE SCHEMA IF NOT EXISTS tailrace_kept

-- name: versions
CREATE TABLE IF NOT EXISTS tailrace_kept.versions (
    projection text PRIMARY KEY,
    kept_at    timestamptz NOT NULL DEFAULT now(),
    migration  integer NOT NULL,
    abandoned  bigint NOT NULL
)

-- name: checkpoints
CREATE TABLE IF NOT EXISTS tailrace_kept.checkpoints (
    projection text NOT NULL,
    partition  integer NOT NULL,
    position   text NOT NULL,
    seq        bigint NOT NULL,
    event_at   timestamptz,
    PRIMARY KEY (projection, partition)
)

-- name: stops
CREATE TABLE IF NOT EXISTS tailrace_kept.stops (
    projection  text NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    PRIMARY KEY (projection, workflow_id)
)

-- name: exists
SELECT to_regclass('tailrace_kept.versions') IS NOT NULL

-- name: names
SELECT projection, kept_at FROM tailrace_kept.versions

-- name: write_version
INSERT INTO tailrace_kept.versions AS v (projection, migration, abandoned)
SELECT $1, (SELECT max(version) FROM tailrace.migrations), (SELECT count(*) FROM tailrace.abandoned)
ON CONFLICT (projection) DO UPDATE
SET kept_at = now(), migration = EXCLUDED.migration, abandoned = EXCLUDED.abandoned

-- name: forget_checkpoints
DELETE FROM tailrace_kept.checkpoints WHERE projection = $1

-- name: write_checkpoints
INSERT INTO tailrace_kept.checkpoints (projection, partition, position, seq, event_at)
SELECT projection, partition, position, seq, event_at FROM tailrace.checkpoints WHERE projection = $1

-- name: forget_stops
DELETE FROM tailrace_kept.stops WHERE projection = $1

-- name: write_stops
INSERT INTO tailrace_kept.stops (projection, workflow_id, version)
SELECT DISTINCT ON (workflow_id) $1, workflow_id, version FROM tailrace.parked ORDER BY workflow_id, seq

-- name: misfit
SELECT
    v.migration <> (SELECT max(version) FROM tailrace.migrations) AS migrated,
    v.abandoned <> (SELECT count(*) FROM tailrace.abandoned) AS repaired
FROM tailrace_kept.versions AS v WHERE v.projection = $1

-- name: moved_stops
SELECT mark.partition, s.workflow_id, mark.seq
FROM tailrace_kept.stops AS s
JOIN LATERAL (SELECT e.partition FROM tailrace.events AS e WHERE e.workflow_id = s.workflow_id LIMIT 1) AS run ON true
JOIN tailrace_kept.checkpoints AS mark ON mark.projection = s.projection AND mark.partition = run.partition
LEFT JOIN LATERAL (
    SELECT p.version FROM tailrace.parked AS p WHERE p.workflow_id = s.workflow_id ORDER BY p.seq LIMIT 1
) AS now ON true
WHERE s.projection = $1 AND s.version IS DISTINCT FROM now.version
ORDER BY mark.partition, s.workflow_id

-- name: exchange_checkpoints
WITH back AS (
    UPDATE tailrace.checkpoints AS c
    SET position = k.position, seq = k.seq, confirmed_position = k.position, confirmed_seq = k.seq,
        event_at = k.event_at, updated_at = now()
    FROM tailrace_kept.checkpoints AS k
    WHERE c.projection = $1 AND k.projection = c.projection AND k.partition = c.partition
)
UPDATE tailrace_kept.checkpoints AS k
SET position = c.position, seq = c.seq, event_at = c.event_at
FROM tailrace.checkpoints AS c
WHERE k.projection = $1 AND c.projection = k.projection AND c.partition = k.partition

-- name: places
SELECT partition, seq FROM tailrace.checkpoints WHERE projection = $1
