-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('tailrace.migrations', 0))

-- name: schema_exists
SELECT to_regnamespace('tailrace') IS NOT NULL

-- name: schema
CREATE SCHEMA tailrace

-- name: table
CREATE TABLE IF NOT EXISTS tailrace.migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: applied
SELECT version, name, checksum FROM tailrace.migrations ORDER BY version

-- name: record
INSERT INTO tailrace.migrations (version, name, checksum) VALUES ($1, $2, $3)

-- name: identify
INSERT INTO tailrace.identity (instance_id, partitions) VALUES ($1, $2) ON CONFLICT (single) DO NOTHING

-- name: identity
SELECT instance_id, partitions FROM tailrace.identity

-- name: partitions
INSERT INTO tailrace.partitions (partition) SELECT generate_series(0, $1::integer - 1) ON CONFLICT DO NOTHING

-- name: exists
SELECT to_regclass('tailrace.migrations') IS NOT NULL
