-- name: beat
INSERT INTO tailrace.projectors (name, lease_until)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (name) DO UPDATE SET lease_until = EXCLUDED.lease_until

-- name: renew
UPDATE tailrace.partitions AS p
SET lease_until = clock_timestamp() + make_interval(secs => $4)
FROM unnest($2::integer[], $3::bigint[]) AS held (partition, epoch)
WHERE p.partition = held.partition AND p.epoch = held.epoch AND p.owner = $1
RETURNING p.partition

-- name: situation
SELECT
    (SELECT count(*) FROM tailrace.partitions)::integer AS partitions,
    (SELECT count(*) FROM tailrace.projectors WHERE lease_until > clock_timestamp())::integer AS projectors,
    (SELECT array_agg(partition ORDER BY partition) FROM tailrace.partitions
     WHERE lease_until <= clock_timestamp()) AS free

-- name: take
UPDATE tailrace.partitions
SET owner = $2, epoch = epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $3)
WHERE partition = $1 AND lease_until <= clock_timestamp()
RETURNING epoch

-- name: take_over
UPDATE tailrace.partitions
SET owner = $2, epoch = epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $3)
WHERE partition = $1
RETURNING epoch

-- name: release
UPDATE tailrace.partitions AS p
SET owner = '', lease_until = clock_timestamp()
FROM unnest($2::integer[], $3::bigint[]) AS held (partition, epoch)
WHERE p.partition = held.partition AND p.epoch = held.epoch AND p.owner = $1

-- name: release_all
UPDATE tailrace.partitions SET owner = '', lease_until = clock_timestamp()

-- name: leave
DELETE FROM tailrace.projectors WHERE name = $1 OR lease_until < clock_timestamp() - interval '1 minute'

-- name: problem
UPDATE tailrace.partitions
SET problem = $3, problem_at = CASE WHEN $3::text IS NULL THEN NULL ELSE now() END
WHERE partition = $1 AND epoch = $2 AND problem IS DISTINCT FROM $3

-- name: known_log
SELECT log_epoch FROM tailrace.partitions WHERE partition = $1

-- name: log_epoch
UPDATE tailrace.partitions SET log_epoch = $3 WHERE partition = $1 AND epoch = $2
