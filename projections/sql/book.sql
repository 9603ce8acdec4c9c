-- The schema of a rebuild, and how far it is. `book` has one row.

-- name: exists
SELECT to_regclass('tailrace_next.book') IS NOT NULL

-- name: load
SELECT names, build, migration, abandoned, total, done, after_id, copied FROM tailrace_next.book

-- name: table
CREATE TABLE tailrace_next.book (
    names      text[] NOT NULL,
    build      text NOT NULL,
    migration  integer NOT NULL,
    abandoned  bigint NOT NULL,
    total      bigint NOT NULL,
    done       bigint NOT NULL DEFAULT 0,
    after_id   text NOT NULL DEFAULT '',
    copied     boolean NOT NULL DEFAULT false
)

-- name: begin
INSERT INTO tailrace_next.book (names, build, migration, abandoned, total)
SELECT
    $1, $2, (SELECT max(version) FROM tailrace.migrations), (SELECT count(*) FROM tailrace.abandoned),
    (SELECT coalesce(sum(seq), 0) FROM tailrace.checkpoints WHERE projection = 'archive')

-- name: marks
INSERT INTO tailrace_next.checkpoints (projection, partition, epoch, position, seq)
SELECT name, partition, 0, position, seq
FROM tailrace.checkpoints CROSS JOIN unnest($1::text[]) AS name
WHERE projection = 'archive'

-- name: parked
INSERT INTO tailrace_next.parked SELECT * FROM tailrace.parked

-- name: now
SELECT (SELECT max(version) FROM tailrace.migrations) AS migration, (SELECT count(*) FROM tailrace.abandoned) AS abandoned

-- name: load_marks
SELECT DISTINCT partition, seq FROM tailrace_next.checkpoints

-- name: stops
SELECT DISTINCT ON (workflow_id) workflow_id, version FROM tailrace_next.parked ORDER BY workflow_id, seq

-- name: keep
UPDATE tailrace_next.book SET after_id = $1, done = done + $2

-- name: copied
UPDATE tailrace_next.book SET copied = true, done = total

-- name: missing_indexes
SELECT pg_get_indexdef(i.indexrelid) AS definition FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = ('tailrace.' || $1)::regclass
  AND to_regclass('tailrace_next.' || quote_ident(c.relname)) IS NULL
