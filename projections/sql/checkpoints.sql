-- name: register
INSERT INTO checkpoints (projection, partition, epoch)
SELECT name, $1, $2 FROM unnest($3::text[]) AS name
ON CONFLICT DO NOTHING

-- name: forget
DELETE FROM checkpoints WHERE partition = $1 AND projection <> ALL ($2::text[])

-- name: stamp
UPDATE checkpoints SET epoch = $2 WHERE partition = $1

-- name: places
SELECT projection, epoch, position, seq FROM checkpoints WHERE partition = $1 ORDER BY projection

-- name: move
UPDATE checkpoints
SET position = $5, seq = $6, event_at = $7, updated_at = now()
WHERE partition = $1 AND epoch = $2 AND projection = ANY ($3::text[]) AND position = $4

-- name: place_of
SELECT position, seq FROM checkpoints WHERE partition = $1 AND projection = $2

-- name: hold
SELECT epoch FROM checkpoints WHERE partition = $1 FOR UPDATE

-- name: confirm
UPDATE checkpoints
SET confirmed_position = position, confirmed_seq = seq
WHERE partition = $1 AND epoch = $2

-- name: reset
UPDATE checkpoints
SET position = '0-0', seq = 0, confirmed_position = '0-0', confirmed_seq = 0, event_at = NULL, updated_at = now()
WHERE partition = $1 AND epoch = $2 AND projection = $3
